//! The way from data of one major version to another, as commands for a person: with its real paths, to be copied.

use std::path::{Path, PathBuf};

use crate::options::USER;

/// Where the programs of major version `old` belong, when those of `new` are in `bin_dir`: every packager puts the number
/// into the path. Without it in there, a place that says what it stands for.
pub(crate) fn likely_bin_dir(bin_dir: &Path, new: u32, old: u32) -> PathBuf {
    let path = bin_dir.to_string_lossy();
    match path.rsplit_once(&new.to_string()) {
        Some((before, after)) => format!("{before}{old}{after}").into(),
        None => format!("/path/to/postgresql-{old}/bin").into(),
    }
}

/// The commands, one on a line, indented. The old cluster stays beside the new one. `owner` is the user of the cluster
/// when that is not the user who types.
pub(crate) fn commands(
    data_dir: &Path,
    (old, old_bin): (u32, &Path),
    (new, new_bin): (u32, &Path),
    owner: Option<&str>,
) -> String {
    let [data, old_bin, new_bin] = [data_dir, old_bin, new_bin].map(quoted);
    let become_owner = if cfg!(target_os = "linux") { "runuser -u" } else { "sudo -E -u" };
    let as_owner = owner.map_or_else(String::new, |owner| format!("{become_owner} {owner} -- "));
    let given = |path: &str| owner.map_or_else(String::new, |owner| format!(" && chown {owner} {path}"));
    let next = format!("{data}/postgres.new-{new}");
    let steps = [
        format!("cd \"$(mktemp -d)\"{}", given(".")),
        format!("export PGPASSWORD=\"$(cat {data}/password)\""),
        format!("rm -rf {next} && mkdir -m 700 {next}{}", given(&next)),
        format!(
            "{as_owner}{new_bin}/initdb -D {next} --username {USER} --pwfile {data}/password --auth scram-sha-256 \
             --encoding UTF8 --no-locale --data-checksums"
        ),
        format!("{as_owner}{new_bin}/pg_upgrade -b {old_bin} -B {new_bin} -d {data}/postgres -D {next} -U {USER}"),
        // What pg_upgrade leaves would delete the new cluster once that has the old one's place.
        "rm -f delete_old_cluster.sh".to_owned(),
        format!("mv {data}/postgres {data}/postgres.old-{old} && mv {next} {data}/postgres"),
    ];
    // One command to the shell: pasted as a whole, none is run after one that failed.
    format!("    ({})", steps.join(" &&\n    "))
}

/// For a shell, when it is not plain anyway.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-@+".contains(&byte);
    if text.bytes().all(plain) { text.into_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_programs_are_where_the_packager_puts_them() {
        for (new, old) in [
            ("/usr/lib/postgresql/16/bin", "/usr/lib/postgresql/15/bin"),
            ("/usr/pgsql-16/bin", "/usr/pgsql-15/bin"),
            ("/opt/homebrew/Cellar/postgresql@16/bin", "/opt/homebrew/Cellar/postgresql@15/bin"),
            ("/usr/bin", "/path/to/postgresql-15/bin"),
        ] {
            assert_eq!(likely_bin_dir(Path::new(new), 16, 15), Path::new(old));
        }
    }

    #[test]
    fn a_path_with_blanks_can_be_copied() {
        assert_eq!(quoted(Path::new("/var/lib/config-api")), "/var/lib/config-api");
        assert_eq!(quoted(Path::new("/my data/o'clock")), r"'/my data/o'\''clock'");
    }
}
