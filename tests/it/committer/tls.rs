//! The committer's connection by TLS: as strict as `sslmode` asks for, and with a certificate of its own where the server wants one.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use end_to_end::{Database, cluster};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use sqlx::Connection;

use super::{CommitterOptions, Running, place, set};

/// Everything in the server's directory, readable by it alone.
struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    /// An authority, and what it signed: the server's for `localhost`, and a client's.
    fn in_directory(directory: &Path) -> Self {
        let certificates = Self { directory: directory.to_owned() };
        let authority = |name: &str| {
            let mut params = CertificateParams::new(vec![]).expect("no names");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            let key = KeyPair::generate().expect("a key");
            let certificate = params.self_signed(&key).expect("a certificate").pem();
            (certificate, Issuer::new(params, key))
        };
        let (certificate, issuer) = authority("ours");
        certificates.write("authority.crt", &certificate);
        certificates.write("stranger.crt", &authority("a stranger").0);
        for (file, name) in [("server", "localhost"), ("client", "config_api")] {
            let key = KeyPair::generate().expect("a key");
            let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            certificates.write(&format!("{file}.crt"), &params.signed_by(&key, &issuer).expect("a certificate").pem());
            certificates.write(&format!("{file}.key"), &key.serialize_pem());
        }
        certificates
    }

    fn write(&self, file: &str, pem: &str) {
        let path = self.directory.join(file);
        fs::write(&path, pem).expect("the file is written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("the file is ours");
        let owner = fs::metadata(&self.directory).expect("the directory is there");
        chown(&path, Some(owner.uid()), Some(owner.gid())).expect("we may give it away");
    }

    fn path(&self, file: &str) -> String {
        self.directory.join(file).to_str().expect("the path is UTF-8").to_owned()
    }
}

/// Makes the server speak TLS.
async fn turn_on(database: &Database) -> Certificates {
    let mut connection = database.connect().await;
    let directory: String =
        sqlx::query_scalar("show data_directory").fetch_one(&mut connection).await.expect("the server answers");
    let certificates = Certificates::in_directory(Path::new(&directory));
    for (setting, file) in
        [("ssl_cert_file", "server.crt"), ("ssl_key_file", "server.key"), ("ssl_ca_file", "authority.crt"), ("ssl", "")]
    {
        let value = if file.is_empty() { "on".to_owned() } else { certificates.path(file) };
        database.execute(&format!("alter system set {setting} = '{value}'")).await;
    }
    let rules = certificates.path("pg_hba.conf");
    let before = fs::read_to_string(&rules).expect("the rules are there");
    certificates.write(
        "pg_hba.conf",
        &format!("hostssl all with_certificate 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\n{before}"),
    );
    database.execute("create role with_certificate login superuser password 'secret'; select pg_reload_conf()").await;
    end_to_end::until("the server speaks TLS", async || {
        let encrypted = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
        let mut connection =
            sqlx::PgConnection::connect(&format!("{}?sslmode=prefer", database.url)).await.expect("the server answers");
        let encrypted: bool =
            sqlx::query_scalar(encrypted).fetch_one(&mut connection).await.expect("the server answers");
        encrypted.then_some(())
    })
    .await;
    certificates
}

#[tokio::test]
async fn a_server_shows_what_its_sslmode_asks_for_and_is_shown_a_certificate_when_it_wants_one() {
    let cluster = cluster::own().await;
    let database = Database::in_cluster(&cluster).await;
    let certificates = turn_on(&database).await;
    let [authority, stranger, certificate, key] =
        ["authority.crt", "stranger.crt", "client.crt", "client.key"].map(|file| certificates.path(file));
    let by_address = database.url.clone();
    let by_name = by_address.replace("@127.0.0.1:", "@localhost:");
    assert_ne!(by_address, by_name);
    let (_, host) = by_address.rsplit_once('@').unwrap();
    let with_certificate = format!("postgres://with_certificate:secret@{host}?sslmode=require");
    let cases = [
        // nothing but what is sent is secret
        (format!("{by_address}?sslmode=prefer"), true, true),
        (format!("{by_address}?sslmode=require"), true, true),
        (format!("{by_address}?sslmode=disable"), true, false),
        // somebody who is trusted
        (format!("{by_address}?sslmode=verify-ca&sslrootcert={authority}"), true, true),
        (format!("{by_address}?sslmode=verify-ca&sslrootcert={stranger}"), false, true),
        (format!("{by_address}?sslmode=verify-ca"), false, true),
        // and whose name it is
        (format!("{by_name}?sslmode=verify-full&sslrootcert={authority}"), true, true),
        (format!("{by_address}?sslmode=verify-full&sslrootcert={authority}"), false, true),
        (format!("{by_name}?sslmode=verify-full&sslrootcert={stranger}"), false, true),
        // of us, too
        (with_certificate.clone(), false, true),
        (format!("{with_certificate}&sslcert={certificate}&sslkey={key}"), true, true),
    ];
    let encrypted = "select ssl from pg_stat_ssl join pg_stat_activity using (pid)
                      where application_name = 'tests command' and datname = current_database()";
    let mut watcher = database.connect().await;
    for (index, (url, answers, by_tls)) in cases.iter().enumerate() {
        let committer = Running::on(url, CommitterOptions::default());
        if *answers {
            let placed = place(committer.append(set(&format!("name-{index}"), 0)).await);
            assert!(placed.is_ok(), "{url}: {placed:?}");
            let sessions: Vec<bool> = sqlx::query_scalar(encrypted).fetch_all(&mut watcher).await.unwrap();
            assert_eq!(sessions, [*by_tls], "{url}");
        } else {
            assert_eq!(place(committer.append_until_soon(set("refused", 0)).await), Err("unavailable"), "{url}");
        }
        committer.ended().await;
        end_to_end::until("its session has ended", async || {
            let sessions: Vec<bool> = sqlx::query_scalar(encrypted).fetch_all(&mut watcher).await.unwrap();
            sessions.is_empty().then_some(())
        })
        .await;
    }
}
