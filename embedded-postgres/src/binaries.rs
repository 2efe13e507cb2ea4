//! Finds an installation of Postgres that can serve the data: both `initdb` and `postgres`, of the data's major
//! version, else the first supported one.

use std::ffi::OsStr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::account::Account;
use crate::directory::cluster_in;
use crate::{Error, upgrade};

/// The major versions this is run with.
const SUPPORTED: RangeInclusive<u32> = 14..=18;

/// Where packages put the binaries: folder, beginning of the name in it, folder under that.
const PLACES: [(&str, &str, &str); 7] = [
    ("usr/lib/postgresql", "", "bin"),                          // Debian, Ubuntu
    ("usr", "pgsql-", "bin"),                                   // packages of postgresql.org for Red Hat, SUSE
    ("opt/homebrew/opt", "postgresql", "bin"),                  // Homebrew on Apple silicon
    ("usr/local/opt", "postgresql", "bin"),                     // Homebrew on Intel
    ("Applications/Postgres.app/Contents/Versions", "", "bin"), // Postgres.app
    ("usr/libexec", "postgresql", ""),                          // Alpine
    ("usr/local", "pgsql", "bin"),                              // built from source
];

/// One installation.
#[derive(Debug, Clone)]
pub(crate) struct Binaries {
    /// Free of symbolic links, because Postgres finds its other files relative to it.
    pub(crate) dir: PathBuf,
    pub(crate) major: u32,
    /// As the server tells it, such as `15.18`.
    pub(crate) version: String,
}

impl Binaries {
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The installation in `dir`, if it is complete and runs.
    fn at(dir: &Path) -> Option<Self> {
        let dir = dir.join("postgres").canonicalize().ok()?.parent()?.to_owned();
        if !dir.join("initdb").is_file() {
            return None;
        }
        let version = version_in(&output_of(&dir.join("postgres"), "--version")?)?;
        let digits = version.chars().take_while(char::is_ascii_digit).collect::<String>();
        Some(Self { dir, major: digits.parse().ok()?, version })
    }
}

/// The binaries for data of major version `data`, or for a new cluster if that is `None`.
///
/// # Errors
/// [`Error::BinariesNotFound`], [`Error::UnsupportedVersion`], [`Error::OtherMajorVersion`].
pub(crate) fn find(bin_dir: Option<&Path>, data_dir: &Path, data: Option<u32>) -> Result<Binaries, Error> {
    let searched = match bin_dir {
        Some(dir) => vec![(dir.to_owned(), vec![dir.to_owned()])],
        None => search_order(std::env::var_os("PATH").as_deref(), Path::new("/")),
    };
    let found = searched.iter().flat_map(|(_, dirs)| dirs).filter_map(|dir| Binaries::at(dir));
    choose(found, data_dir, data)?
        .ok_or_else(|| Error::BinariesNotFound { searched: searched.into_iter().map(|(place, _)| place).collect() })
}

/// The major version in the cluster's `PG_VERSION`; `None` while there is no cluster.
pub(crate) fn version_of_data(cluster: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(cluster.join("PG_VERSION")).ok()?;
    text.trim().split('.').next()?.parse().ok()
}

/// What `program` prints for `argument`, if it ends well.
pub(crate) fn output_of(program: &Path, argument: impl AsRef<OsStr>) -> Option<String> {
    let output = Command::new(program).arg(argument).env("LC_ALL", "C").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Takes no more from `found` than it needs: each look costs a process.
fn choose(
    found: impl Iterator<Item = Binaries>,
    data_dir: &Path,
    data: Option<u32>,
) -> Result<Option<Binaries>, Error> {
    let (mut first_supported, mut first_other, mut old_bin_dir) = (None, None, None);
    for binaries in found {
        let supported = SUPPORTED.contains(&binaries.major);
        if supported && data.is_none_or(|data| data == binaries.major) {
            return Ok(Some(binaries));
        }
        if !supported && data == Some(binaries.major) {
            old_bin_dir.get_or_insert_with(|| binaries.dir.clone());
        }
        if supported { &mut first_supported } else { &mut first_other }.get_or_insert(binaries);
    }
    match (first_supported, first_other, data) {
        (Some(Binaries { major: binaries, dir: bin_dir, .. }), _, Some(data)) => {
            let old_bin_dir = old_bin_dir.unwrap_or_else(|| upgrade::likely_bin_dir(&bin_dir, binaries, data));
            let data_dir = data_dir.canonicalize().unwrap_or_else(|_| data_dir.to_owned());
            let owner = Account::choose(&cluster_in(&data_dir))?.name();
            Err(Error::OtherMajorVersion { data_dir, data, old_bin_dir, binaries, bin_dir, owner })
        }
        (_, Some(Binaries { dir: bin_dir, version, .. }), _) => Err(Error::UnsupportedVersion { bin_dir, version }),
        _ => Ok(None),
    }
}

/// Every place as it is told to people, with the directories it stands for.
fn search_order(path: Option<&OsStr>, root: &Path) -> Vec<(PathBuf, Vec<PathBuf>)> {
    let on_path = path.map(|path| std::env::split_paths(path).collect::<Vec<_>>()).unwrap_or_default();
    let asked = on_path.iter().map(|dir| dir.join("pg_config")).find(|program| program.is_file());
    let asked = asked.and_then(|program| output_of(&program, "--bindir")).map(|dir| PathBuf::from(dir.trim()));
    let exact = on_path.into_iter().chain(asked).map(|dir| (dir.clone(), vec![dir]));
    let usual = PLACES.iter().map(|(parent, prefix, below)| {
        let parent = root.join(parent);
        let place = parent.join(format!("{prefix}*")).join(below);
        (place, newest_first(&parent, prefix).into_iter().map(|dir| dir.join(below)).collect())
    });
    exact.chain(usual).collect()
}

fn newest_first(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    let mut versions = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let rest = name.strip_prefix(prefix)?;
            Some((rest.trim_start_matches('@').parse::<u32>().unwrap_or(0), entry.path()))
        })
        .collect::<Vec<_>>();
    versions.sort_by(|a, b| b.cmp(a));
    versions.into_iter().map(|(_, dir)| dir).collect()
}

/// `15.18` of `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn version_in(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("(PostgreSQL)")?;
    rest.split_whitespace().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installed(version: &str) -> Binaries {
        let major = version.split('.').next().unwrap().parse().unwrap();
        Binaries { dir: format!("/pg/{version}").into(), major, version: version.to_owned() }
    }

    fn chosen(versions: &[&str], data: Option<u32>) -> Result<Option<Binaries>, Error> {
        choose(versions.iter().map(|version| installed(version)), Path::new("/data"), data)
    }

    #[test]
    fn the_first_supported_version_is_chosen_for_new_data() {
        assert_eq!(chosen(&["13.4", "16.2", "17.1"], None).unwrap().unwrap().version, "16.2");
    }

    #[test]
    fn existing_data_gets_its_own_version_though_a_newer_one_comes_first() {
        assert_eq!(chosen(&["17.1", "15.18"], Some(15)).unwrap().unwrap().version, "15.18");
        let refused = chosen(&["17.1", "16.2"], Some(15)).unwrap_err();
        assert!(matches!(refused, Error::OtherMajorVersion { data: 15, binaries: 17, .. }), "{refused}");
    }

    #[test]
    fn only_unsupported_versions_are_named_as_such() {
        let refused = chosen(&["13.4", "12.1"], None).unwrap_err();
        assert!(matches!(&refused, Error::UnsupportedVersion { version, .. } if version == "13.4"), "{refused}");
        assert!(chosen(&[], None).unwrap().is_none());
    }

    #[test]
    fn versions_14_to_18_are_supported() {
        for version in ["14.0", "18.3"] {
            assert_eq!(chosen(&["13.22", "19.0", version], None).unwrap().unwrap().version, version);
        }
    }

    #[test]
    fn pg_config_is_asked_where_the_programs_are() {
        // echo answers with what it is asked, and was not just written, which the system may refuse to execute.
        let on_path = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/bin/echo", on_path.path().join("pg_config")).unwrap();
        let order = search_order(Some(on_path.path().as_os_str()), Path::new("/nowhere"));
        assert_eq!(order[1].1, [Path::new("--bindir")], "after PATH itself");
    }

    #[test]
    fn versions_are_read_from_releases_and_betas() {
        assert_eq!(version_in("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n").unwrap(), "15.18");
        assert_eq!(version_in("postgres (PostgreSQL) 18beta1\n").unwrap(), "18beta1");
        assert!(version_in("something else").is_none());
    }

    #[test]
    fn path_comes_before_the_usual_places_and_newer_before_older() {
        let root = tempfile::tempdir().unwrap();
        for dir in ["usr/lib/postgresql/9.6", "usr/lib/postgresql/15", "usr/lib/postgresql/17", "usr/pgsql-16"] {
            std::fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        let order = search_order(Some(OsStr::new("/on/path")), root.path());
        let dirs = order.into_iter().flat_map(|(_, dirs)| dirs).collect::<Vec<_>>();
        assert_eq!(dirs[0], Path::new("/on/path"));
        let usual = [
            "usr/lib/postgresql/17/bin",
            "usr/lib/postgresql/15/bin",
            "usr/lib/postgresql/9.6/bin",
            "usr/pgsql-16/bin",
        ];
        assert_eq!(dirs[1..], usual.map(|dir| root.path().join(dir)));
    }

    #[test]
    fn a_symbolic_link_to_the_server_leads_to_its_installation() {
        let real = find(None, Path::new("/data"), None).unwrap();
        let links = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(real.program("postgres"), links.path().join("postgres")).unwrap();
        let found = find(Some(links.path()), Path::new("/data"), None).unwrap();
        assert_eq!(found.dir, real.dir);
    }
}
