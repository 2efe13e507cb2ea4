//! Starts that cannot succeed end with one line and an exit code; those that can wait do; and a process that is told to end
//! twice ends at once.

use std::{future::pending, process::Stdio};

use embedded_postgres::StopMode;
use end_to_end::{
    CommandService, Database, HeldLog, LogLines, QueryService, Standalone, cluster,
    process::{Process, program, run},
    until,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{net::TcpListener, task::JoinSet};

const USAGE: i32 = 2;
const FAILURE: i32 = 1;

/// Runs a program that cannot start, and checks that it says so in one line that names itself.
async fn refused(program: &str, arguments: &[&str], environment: &[(&str, &str)], code: i32) -> String {
    let ended = run(program, arguments, environment).await;
    assert_eq!(ended.code, Some(code), "{program} {arguments:?} {environment:?}: {ended:?}");
    assert_eq!(ended.complaint.lines().count(), 1, "{ended:?}");
    let complaint = ended.complaint.strip_prefix(&format!("{program}: ")).expect(&ended.complaint);
    complaint.trim_end().to_owned()
}

#[tokio::test]
async fn a_wrong_setting_is_named_with_its_source_and_remedy() {
    let all = ["config-api", "command-service", "query-service"];
    let services = &all[1..];
    for program in all {
        for (arguments, environment, told) in [
            (&["--listne", "127.0.0.1:0"][..], &[][..], "tip: a similar argument exists: '--listen'"),
            (&["--listen", "here"], &[], "invalid value 'here' for '--listen <ADDRESS:PORT>'"),
            (&[], &[("LISTEN_ADDR", "here")], "(from the environment variable LISTEN_ADDR)"),
            (&[], &[("RUST_LOG", "inof")], "`inof` is no level; write a level (error, warn, info, debug, trace, off)"),
            (&["--config", "/does/not/exist"], &[], "/does/not/exist cannot be read: No such file"),
            (&["--listen", "0.0.0.0:0", "--database-url", "postgres://h/d"], &[], "--insecure-no-auth"),
            (
                &["--database-url", "postgres://u:hunter2@h/d?sslmod=require"],
                &[],
                "the parameter `sslmod`, which is not known",
            ),
            (&["postgres://u:hunter2@h/d"], &[], "'***'"),
            (&["--database-url", "mysql://h/d"], &[], "it looks like postgres://user:password@host:5432/database"),
            (&["--redact-names", "[", "--database-url", "postgres://h/d"], &[], "REDACT_NAMES"),
        ] {
            let complaint = refused(program, arguments, environment, USAGE).await;
            assert!(complaint.contains(told), "{told:?} is not in {complaint:?}");
            assert!(!complaint.contains("hunter2"), "{complaint}");
        }
    }
    for program in services {
        let complaint = refused(program, &[], &[], USAGE).await;
        assert!(complaint.contains("set DATABASE_URL or --database-url to postgres://"), "{complaint}");
    }
    let complaint = refused("command-service", &["migrate"], &[], USAGE).await;
    assert!(complaint.contains("set DATABASE_URL"), "{complaint}");
    // As compose files write what is not set.
    let complaint =
        refused("query-service", &[], &[("DATABASE_URL", ""), ("RUST_LOG", ""), ("CONFIG_FILE", "")], USAGE).await;
    assert!(complaint.contains("no database is named"), "{complaint}");
    let two = [("DATABASE_URL", "postgres://h/d"), ("DATA_DIR", "/tmp/x")];
    let complaint = refused("config-api", &[], &two, USAGE).await;
    assert!(complaint.contains("leave one out"), "{complaint}");
}

#[tokio::test]
async fn settings_are_printed_with_their_sources_and_help_names_defaults_and_examples() {
    for program in ["config-api", "command-service", "query-service"] {
        let environment = [("DATABASE_URL", "postgres://me:secret@h/d"), ("LOG_FORMAT", "json")];
        let printed = run(program, &["--print-config", "--redact-names", "x"], &environment).await;
        assert_eq!((printed.code, printed.complaint.as_str()), (Some(0), ""), "{printed:?}");
        for line in [
            "database_url = \"postgres://me:***@h/d\"  # environment DATABASE_URL",
            "log_format = \"json\"  # environment LOG_FORMAT",
            "redact_names = \"x\"  # flag --redact-names",
            "insecure_no_auth = false  # default",
        ] {
            assert!(printed.output.contains(line), "{line} is not in {}", printed.output);
        }
        let help = run(program, &["--help"], &[]).await;
        assert_eq!(help.code, Some(0));
        let settings = printed.output.lines().skip(1).map(|line| line.trim_start_matches("# "));
        for id in settings.filter_map(|line| line.split([' ', '=']).next()) {
            let flag = format!(" --{}", id.replace('_', "-"));
            let mut blocks = help.output.split("\n      -");
            let block =
                blocks.find(|block| format!(" -{block}").starts_with(&flag)).unwrap_or_else(|| panic!("no {flag}"));
            assert!(block.to_lowercase().contains("example: "), "{block}");
            assert!(block.contains("[env: "), "{block}");
            let needs_none = ["database_url", "database_password_file", "insecure_no_auth", "no_listen"];
            assert!(block.contains("[default: ") || needs_none.contains(&id), "{block}");
        }
    }
}

#[tokio::test]
async fn the_databases_password_may_be_in_a_file_that_only_the_start_reads() {
    let database = Database::new().await;
    let (login, place) = database.url.rsplit_once('@').unwrap();
    let (login, password) = login.rsplit_once(':').unwrap();
    let without = format!("{login}@{place}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{password}\n")).unwrap();
    let path = file.path().to_str().unwrap();
    let environment = [("DATABASE_URL", without.as_str()), ("DATABASE_PASSWORD_FILE", path)];
    let migrated = run("command-service", &["migrate"], &environment).await;
    assert_eq!(migrated.code, Some(0), "{migrated:?}");
    let instead = [("MIGRATE_DATABASE_URL", without.as_str()), ("DATABASE_PASSWORD_FILE", path)];
    assert_eq!(run("command-service", &["migrate"], &instead).await.code, Some(0));
    let start = async |name| {
        let service = Process::start_with(name, &[], &environment).await;
        service.client.until_ready().await;
        service
    };
    let (command, query, both) = tokio::join!(start("command-service"), start("query-service"), start("config-api"));
    let put = command.client.put("a", 1).await;
    for service in [&query, &both] {
        assert_eq!(service.client.value_after("a", &put).await.short(), (200, "1"));
    }
    let two = [("DATABASE_URL", database.url.as_str()), ("DATABASE_PASSWORD_FILE", path)];
    for program in ["config-api", "command-service", "query-service"] {
        let complaint = refused(program, &[], &two, USAGE).await;
        assert!(complaint.contains("the database URL has a password; leave one out"), "{complaint}");
        let printed = run(program, &["--print-config"], &environment).await;
        assert!(!printed.output.contains(password), "{printed:?}");
    }
    let complaint = refused("config-api", &[], &[("DATABASE_PASSWORD_FILE", path)], USAGE).await;
    assert!(complaint.contains("but no database URL"), "{complaint}");
}

#[tokio::test]
async fn a_program_tells_whether_its_service_is_well() {
    let cluster = cluster::own().await;
    let database = Database::in_cluster(&cluster).await;
    let names = ["config-api", "command-service", "query-service"];
    let start = names.map(async |name| {
        let service = Process::start(name, &["--database-url", &database.url]).await;
        service.client.until_ready().await;
        service
    });
    let services = futures_util::future::join_all(start).await;
    let asked = async |name, service: &Process, more: &[&str]| {
        let address = service.client.base().strip_prefix("http://").unwrap().to_owned();
        run(name, &[&["healthcheck"], more].concat(), &[("LISTEN_ADDR", &address)]).await
    };
    for (name, service) in names.iter().zip(&services) {
        let well = asked(name, service, &[]).await;
        assert_eq!((well.code, well.output), (Some(0), format!("{name}: ready at {}\n", service.client.base())));
    }
    cluster.stop(StopMode::Fast).await.unwrap();
    for (name, service) in names.iter().zip(&services) {
        let alive = asked(name, service, &["--live"]).await;
        assert_eq!((alive.code, alive.output), (Some(0), format!("{name}: alive at {}\n", service.client.base())));
        let ready = asked(name, service, &[]).await;
        if *name == "query-service" {
            assert_eq!(ready.code, Some(0), "it serves what it has: {ready:?}");
        } else {
            assert_eq!((ready.code, ready.complaint.lines().count()), (Some(FAILURE), 1), "{ready:?}");
            assert!(ready.complaint.contains("/v1/ready answered 503 Service Unavailable: {"), "{ready:?}");
        }
    }
    let nobody = run("query-service", &["healthcheck"], &[("LISTEN_ADDR", "0.0.0.0:1")]).await;
    assert_eq!(nobody.code, Some(FAILURE));
    assert!(nobody.complaint.starts_with("query-service: no answer from http://127.0.0.1:1/v1/ready"), "{nobody:?}");
}

#[tokio::test]
async fn printing_the_settings_of_a_task_does_not_do_it() {
    let database = Database::empty().await;
    for arguments in [["--print-config", "migrate"], ["migrate", "--print-config"]] {
        let printed = run("command-service", &arguments, &[("DATABASE_URL", &database.url)]).await;
        assert_eq!((printed.code, printed.complaint.as_str()), (Some(0), ""), "{printed:?}");
        assert!(printed.output.contains("create_roles = false  # default"), "{printed:?}");
    }
    let tables: i64 = sqlx::query_scalar("select count(*) from pg_tables where schemaname = 'public'")
        .fetch_one(&mut database.connect().await)
        .await
        .unwrap();
    assert_eq!(tables, 0);
    let printed = run("config-api", &["--print-config"], &[("HOME", "/home/ann")]).await;
    assert!(printed.output.contains("# data_dir = \"/"), "{printed:?}");
}

#[tokio::test]
async fn a_database_that_refuses_is_told_at_once_with_the_remedy() {
    let database = Database::new().await;
    database.execute("create role outsider login password 'outsider'").await;
    let (_, host) = database.url.rsplit_once('@').unwrap();
    let password = database.url.split(['/', ':', '@']).nth(4).unwrap();
    let (server, _) = database.url.rsplit_once('/').unwrap();
    let cases = [
        (format!("postgres://config_api:wrong@{host}"), "check user and password in DATABASE_URL"),
        (format!("{server}/missing"), "check the database's name in DATABASE_URL, or create it: createdb"),
        (format!("postgres://config_api:{password}@{host}?sslmode=require"), "whether the server speaks TLS"),
        (format!("postgres://outsider:outsider@{host}"), "grant config_api_"),
    ];
    for (url, told) in &cases {
        for program in ["command-service", "query-service"] {
            let complaint = refused(program, &["--listen", "127.0.0.1:0", "--database-url", url], &[], FAILURE).await;
            assert!(complaint.contains(told), "{program}: {told:?} is not in {complaint:?}");
            assert!(!complaint.contains(&database.url), "no secrets: {complaint}");
        }
    }
    for (url, told) in &cases[..3] {
        let complaint = refused("config-api", &["--listen", "127.0.0.1:0", "--database-url", url], &[], FAILURE).await;
        assert!(complaint.contains(told), "{told:?} is not in {complaint:?}");
    }
    // Enough to read and to append, and not to keep answers.
    database
        .execute(
            "grant select on events, _sqlx_migrations to outsider;
             grant execute on function append_events to outsider",
        )
        .await;
    let arguments = ["--listen", "127.0.0.1:0", "--database-url", &cases[3].0];
    let complaint = refused("command-service", &arguments, &[], FAILURE).await;
    assert!(complaint.contains("may not append to the event log"), "{complaint}");
    let owner_wanted =
        refused("command-service", &["migrate", "--create-roles"], &[("DATABASE_URL", &cases[3].0)], FAILURE).await;
    assert!(owner_wanted.contains("do it as a superuser, or as a role with createrole"), "{owner_wanted}");
    database.execute("drop owned by outsider; drop role outsider").await;
}

#[tokio::test]
async fn a_wait_of_no_time_is_one_attempt() {
    let database = Database::new().await;
    let service =
        Process::start("command-service", &["--database-url", &database.url, "--database-wait-seconds", "0"]).await;
    service.client.put("a", 1).await;
    service.terminate();
    assert_eq!(service.ended().await.0.code(), Some(0));
}

/// While it waits for a database, which it does for a minute.
#[tokio::test]
async fn a_migration_can_be_stopped() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://u:p@{}/d", silent.local_addr().unwrap());
    let arguments = ["migrate", "--database-url", &url];
    // Accepted, and never answered. The signal may come first.
    let (code, complaint) = tokio::select! {
        ended = stopped_by_a_signal(&arguments) => ended,
        never = async {
            let _kept = silent.accept().await;
            pending().await
        } => never,
    };
    assert_eq!(code, Some(FAILURE), "{complaint}");
    assert!(complaint.contains("stopped before the schema was migrated; run it again"), "{complaint}");
}

/// Starts the command service's program, sends SIGTERM when it has its handler, and tells how it ended.
async fn stopped_by_a_signal(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::new(program("command-service"));
    command.args(arguments).env_clear().stderr(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(true);
    let child = command.spawn().expect("the program starts");
    let pid = child.id().expect("it runs");
    until("it handles signals", async || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("Linux tells");
        let caught = u64::from_str_radix(caught.trim(), 16).expect("a mask");
        (caught >> (Signal::SIGTERM as u32 - 1) & 1 == 1).then_some(())
    })
    .await;
    kill(Pid::from_raw(i32::try_from(pid).expect("pids are small")), Signal::SIGTERM).expect("it runs");
    let ended = child.wait_with_output().await.expect("it ends");
    (ended.status.code(), String::from_utf8(ended.stderr).expect("UTF-8"))
}

/// It takes connections, like a proxy whose server is gone, and never says a word.
#[tokio::test]
async fn a_database_that_never_answers_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://u:p@{}/d", silent.local_addr().unwrap());
    let mut accepting = JoinSet::new();
    accepting.spawn(async move {
        let mut kept = vec![];
        while let Ok((stream, _)) = silent.accept().await {
            kept.push(stream);
        }
    });
    let arguments = ["--listen", "127.0.0.1:0", "--database-url", &url, "--database-wait-seconds", "1"];
    for program in ["command-service", "config-api"] {
        let complaint = refused(program, &arguments, &[], FAILURE).await;
        assert!(complaint.contains("did not answer within 1 s; check DATABASE_URL"), "{complaint}");
    }
}

#[tokio::test]
async fn a_taken_port_is_told_with_who_has_it_and_with_one_that_is_free() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let (port, pid) = (address.port(), std::process::id());
    for program in ["config-api", "command-service", "query-service"] {
        let arguments = ["--listen", &address.to_string(), "--database-url", "postgres://u:p@127.0.0.1:1/d"];
        let complaint = refused(program, &arguments, &[], FAILURE).await;
        assert!(complaint.starts_with(&format!("port {port} is taken by `")), "{complaint}");
        assert!(complaint.contains(&format!("` (pid {pid}); stop it or use --listen 127.0.0.1:")), "{complaint}");
    }
}

#[tokio::test]
async fn services_wait_for_a_database_that_comes_later_and_say_so() {
    let cluster = cluster::own().await;
    let database = Database::in_cluster(&cluster).await;
    for standalone in [false, true] {
        cluster.stop(StopMode::Fast).await.unwrap();
        let log = LogLines::collect();
        let start = async {
            match standalone {
                true => Standalone::start(&database).await,
                false => CommandService::start(&database).await,
            }
        };
        let comes_later = async {
            until("it waits", async || log.has("[warning] Waiting for the database").then_some(())).await;
            cluster.start_again().await.unwrap();
        };
        let (service, ()) = tokio::join!(start, comes_later);
        service.client.put("a", standalone).await;
        service.stop().await.unwrap();
    }
    cluster.stop(StopMode::Fast).await.unwrap();
    let query = QueryService::start_with(QueryService::config(&database.url)).await;
    let early = query.client.get("/v1/config/a").await;
    assert_eq!(early.status, 503, "{early:?}");
    assert_eq!(query.client.get("/v1/ready").await.status, 503);
    cluster.start_again().await.unwrap();
    query.until_ready().await;
    assert_eq!(query.client.value("a").await.short(), (200, "true"));
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let database = Database::new().await;
    let service = Process::start("command-service", &["--database-url", &database.url]).await;
    let mut log = HeldLog::take(&database).await;
    let mut writing = JoinSet::new();
    let client = service.client.clone();
    writing.spawn(async move {
        client.try_send(reqwest::Method::PUT, "/v1/config/a", &[], Some(r#"{"value":1}"#.to_owned())).await
    });
    log.until_waiting(1).await;
    service.terminate();
    until("it heard", async || service.log().iter().any(|line| line.contains("again to end at once")).then_some(()))
        .await;
    service.terminate();
    let (status, lines) = service.ended().await;
    assert_eq!(status.code(), Some(130), "{lines:#?}");
    assert!(writing.join_next().await.unwrap().unwrap().is_none(), "nobody was answered");
    log.release().await;
}

#[tokio::test]
async fn the_log_can_be_made_to_tell_more_while_a_service_runs() {
    let database = Database::new().await;
    let service = Process::start("command-service", &["--database-url", &database.url]).await;
    let filter = async |body: &str| {
        service.client.send(reqwest::Method::PUT, "/v1/log-filter", &[], Some(body.to_owned())).await
    };
    assert_eq!(service.client.get("/v1/log-filter").await.json()["filter"], "info,sqlx=warn");
    service.client.put("before", 1).await;
    let changed = filter(r#"{"filter":"debug,sqlx=warn"}"#).await;
    assert_eq!(changed.short(), (200, r#"{"filter":"debug,sqlx=warn"}"#));
    service.client.put("after", 1).await;
    let wrong = filter(r#"{"filter":"inof"}"#).await;
    assert_eq!(wrong.status, 400);
    assert!(wrong.body.contains("`inof` is no level"), "{wrong:?}");
    filter(r#"{"filter":"off"}"#).await;
    service.client.put("silent", 1).await;
    service.terminate();
    let (_, log) = service.ended().await;
    let debug: Vec<_> = log.iter().filter(|line| line.contains("[debug] PUT /v1/config/{name}")).collect();
    assert_eq!(debug.len(), 1, "{log:#?}");
    assert!(log.iter().any(|line| line.contains("from info,sqlx=warn to debug,sqlx=warn")), "{log:#?}");
    assert!(!log.iter().any(|line| line.contains("/config/silent")), "{log:#?}");
}

#[tokio::test]
async fn a_log_that_tells_more_tells_no_secret() {
    let database = Database::new().await;
    let arguments = ["--database-url", &database.url, "--log-filter", "debug"];
    let service = Process::start("config-api", &arguments).await;
    let client = &service.client;
    client.until_ready().await;
    let set = |name: &str, value: &str| {
        serde_json::json!({"operations": [{"op": "set", "name": name, "value": value}]}).to_string()
    };
    for (name, value) in [("db_password", "hunter2"), ("open", "hunter3")] {
        client.put(name, value).await;
        assert_eq!(client.value(name).await.short(), (200, value));
        for path in ["", "/history", "/versions/1"] {
            assert_eq!(client.get_json(&format!("/v1/config/{name}{path}")).await.status, 200);
        }
        for (path, body) in [
            ("/v1/batch", set(name, "another")),
            (&*format!("/v1/config/{name}/rollback"), r#"{"version":1}"#.to_owned()),
        ] {
            assert_eq!(client.send(reqwest::Method::POST, path, &[], Some(body)).await.status, 200, "{path}");
        }
        for path in ["/v1/config", "/v1/config?at=1", "/v1/diff?from=0", "/v1/events"] {
            assert_eq!(client.get(path).await.status, 200, "{path}");
        }
        assert_eq!(client.delete(name).await.status, 200);
    }
    service.terminate();
    let (_, log) = service.ended().await;
    for line in ["GET /config/db_password - Value: [redacted]", "GET /config/open - Value: \"hunter3\""] {
        assert!(log.iter().any(|told| told.contains(line)), "{line}: {log:#?}");
    }
    let secret: Vec<_> = log.iter().filter(|line| line.contains("hunter2")).collect();
    assert!(secret.is_empty(), "{secret:#?}");
}
