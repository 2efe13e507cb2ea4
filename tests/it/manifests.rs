//! The deployments' files agree with the programs: each variable and flag is one that the program has, ports, paths and limits are
//! the services', and what is handed in at one place is taken at the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use command_service::http::{batch, write};
use end_to_end::{gateway, process::run};
use shared::value::DEFAULT_MAX_VALUE_BYTES;

const COMPOSE: &str = "docker-compose.yml";
const PROGRAMS: [&str; 3] = ["command-service", "query-service", "config-api"];

/// Of OpenTelemetry's specification, which the programs' help does not repeat.
const STANDARD: [&str; 1] = ["OTEL_EXPORTER_OTLP_ENDPOINT"];

#[tokio::test]
async fn every_variable_that_is_set_is_one_of_the_program() {
    let mut known = BTreeMap::new();
    for program in PROGRAMS {
        known.insert(program, variables_of(program).await);
    }
    let mut seen = 0;
    let mut check = |place: &str, program: &str, variable: &str| {
        assert!(
            known[program].contains(variable) || STANDARD.contains(&variable),
            "{place}: {program} has no {variable}"
        );
        seen += 1;
    };
    for (block, text) in compose() {
        let programs =
            if block == "x-settings" { PROGRAMS[..2].to_vec() } else { program_of(&text).into_iter().collect() };
        for program in programs {
            for (variable, _) in compose_variables(&text) {
                check(COMPOSE, program, &variable);
            }
        }
    }
    for file in manifests() {
        for document in read(&file).split("\n---\n") {
            for (variable, _) in manifest_variables(document) {
                if let Some(program) = program_of(document) {
                    check(&file, program, &variable);
                }
            }
        }
    }
    for (file, unit) in units() {
        let program = program_of_unit(&unit);
        let named = unit.lines().filter_map(|line| line.strip_prefix("Environment="));
        let mut variables: Vec<_> =
            named.filter_map(|line| line.split_once('=')).map(|(name, _)| name.to_owned()).collect();
        let settings = unit.lines().find_map(|line| line.strip_prefix("EnvironmentFile=")).expect("settings");
        let settings =
            Path::new(settings.trim_start_matches('-')).file_name().expect("a file").to_str().expect("UTF-8");
        let settings = read(&format!("deploy/systemd/{settings}"));
        variables.extend(settings.lines().filter_map(|line| {
            let (name, _) = line.trim_start_matches('#').split_once('=')?;
            is_variable(name).then(|| name.to_owned())
        }));
        assert!(variables.len() > 1, "{file}: {variables:?}");
        for variable in variables {
            check(&file, program, &variable);
        }
    }
    assert!(seen > 50, "{seen}");
}

#[tokio::test]
async fn every_flag_and_task_that_is_given_is_one_of_the_program() {
    let mut given = vec![];
    for (_, unit) in units() {
        let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/")).expect("a program");
        given.push(line.split(' ').map(str::to_owned).collect::<Vec<_>>());
    }
    let words = |list: &str| {
        list.split([',', '"', ' ', '[', ']']).filter(|word| !word.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    for (_, text) in compose() {
        let Some(program) = program_of(&text) else { continue };
        if let Some(command) = text.lines().find_map(|line| line.trim().strip_prefix("command: ")) {
            given.push([vec![program.to_owned()], words(command)].concat());
        }
        if let Some(test) = text.lines().find_map(|line| line.trim().strip_prefix("test: [CMD, /usr/local/bin/")) {
            given.push(words(test));
        }
    }
    for line in read("Dockerfile").lines().filter(|line| line.starts_with("HEALTHCHECK")) {
        let (_, command) = line.split_once("CMD [\"/usr/local/bin/").expect("a program of the image");
        given.push(words(command));
    }
    given.push(vec!["command-service".to_owned(), "migrate".to_owned()]);
    assert!(read("deploy/kubernetes/base/migrate.yaml").contains("args: [migrate]"));
    assert!(given.len() > 10, "{given:?}");
    for line in given {
        let (program, arguments) = line.split_first().expect("a program");
        assert!(PROGRAMS.contains(&program.as_str()), "{line:?}");
        let help = run(program, &["--help"], &[]).await.output;
        for argument in arguments {
            if argument.starts_with("--") {
                assert!(help.contains(&format!(" {argument} ")), "{line:?}: no {argument}");
            } else if argument.chars().all(char::is_lowercase) {
                assert!(help.contains(&format!("\n  {argument} ")), "{line:?}: no task {argument}");
            }
        }
    }
}

#[test]
fn ports_are_those_that_the_services_have_by_themselves() {
    let ports = [
        ("command-service", command_service::config::DEFAULT_LISTEN),
        ("query-service", query_service::config::DEFAULT_LISTEN),
        ("config-api", config_api::settings::DEFAULT_LISTEN),
    ];
    let ports: BTreeMap<_, _> = ports.map(|(program, listen)| (program, listen.rsplit_once(':').unwrap().1)).into();
    let dockerfile = read("Dockerfile");
    for (program, port) in &ports {
        let (_, stage) = dockerfile.split_once(&format!("FROM base AS {program}\n")).expect("a target");
        let stage = stage.split("\nFROM ").next().unwrap();
        for line in [
            format!("ENV LISTEN_ADDR=0.0.0.0:{port}"),
            format!("EXPOSE {port}"),
            format!("COPY --from=build /build/target/release/{program} /usr/local/bin/{program}"),
            format!("ENTRYPOINT [\"/usr/local/bin/{program}\"]"),
        ] {
            assert!(stage.contains(&line), "Dockerfile, {program}: {line}");
        }
    }
    let listens = |variables: Vec<(String, String)>, program: &str, place: &str| {
        for (_, address) in variables.into_iter().filter(|(name, _)| name == "LISTEN_ADDR") {
            assert!(address.ends_with(&format!(":{}", ports[program])), "{place}: {program} at {address}");
        }
    };
    for (block, text) in compose() {
        if let Some(program) = program_of(&text) {
            listens(compose_variables(&text), program, &block);
        }
    }
    for file in manifests() {
        for document in read(&file).split("\n---\n") {
            if let Some(program) = program_of(document) {
                listens(manifest_variables(document), program, &file);
            }
            if document.starts_with("apiVersion: v1\nkind: Service\n") || document.contains("containerPort") {
                let name = document.lines().find_map(|line| line.strip_prefix("  name: ")).expect("a name");
                let port = ports.get(name).copied().unwrap_or("4000");
                assert!(
                    document.contains(&format!("ontainerPort: {port}}}"))
                        || document.contains(&format!("port: {port}, targetPort: http}}")),
                    "{file}: {name}"
                );
            }
        }
    }
    for (file, unit) in units() {
        let settings = unit
            .lines()
            .find_map(|line| line.strip_prefix("EnvironmentFile="))
            .expect("settings")
            .rsplit('/')
            .next()
            .unwrap();
        let lines = read(&format!("deploy/systemd/{settings}"));
        let variables =
            lines.lines().filter_map(|line| line.split_once('=')).map(|(a, b)| (a.to_owned(), b.to_owned()));
        listens(variables.collect(), program_of_unit(&unit), &file);
    }
    // The gateway's servers.
    for place in [read(COMPOSE), read("deploy/kubernetes/base/gateway.yaml")] {
        for server in place
            .split("server ")
            .skip(1)
            .filter(|rest| rest.starts_with("command-service") || rest.starts_with("query-service"))
        {
            let (name, rest) = server.split_once(':').unwrap();
            let program = PROGRAMS.iter().find(|program| name.starts_with(**program)).unwrap();
            assert!(rest.starts_with(&format!("{} max_fails=0;", ports[program])), "{server}");
        }
    }
}

#[test]
fn the_gateway_is_told_everything_and_takes_what_the_services_take() {
    let template = read(gateway::TEMPLATE);
    let asked: BTreeSet<_> = places(&template, "GATEWAY_").collect();
    assert_eq!(asked.len(), 5, "{asked:?}");
    let compose = compose();
    let told: BTreeMap<_, _> =
        compose_variables(&compose["gateway"]).into_iter().filter(|(name, _)| name.starts_with("GATEWAY_")).collect();
    let told_by_kubernetes: BTreeMap<_, _> = manifest_variables(&read("deploy/kubernetes/base/gateway.yaml"))
        .into_iter()
        .filter(|(name, _)| name.starts_with("GATEWAY_"))
        .collect();
    for told in [&told, &told_by_kubernetes] {
        assert_eq!(told.keys().cloned().collect::<BTreeSet<_>>(), asked);
        let largest = (DEFAULT_MAX_VALUE_BYTES + write::BODY_ROOM_BYTES).to_string();
        assert!(told["GATEWAY_MAX_BODY"].contains(&largest), "{told:?}");
    }
    let stack = read("deploy/stack");
    for name in &asked {
        assert!(stack.contains(&format!("\\${{{name}}}")), "deploy/stack: {name}");
    }
    let batch = batch::MAX_BATCH_BYTES + batch::BODY_ROOM_BYTES;
    assert!(template.contains(&format!("client_max_body_size {batch};")), "{batch}");
}

#[test]
fn the_example_of_the_environment_has_what_compose_asks_for_with_its_defaults() {
    let (compose, example) = (read(COMPOSE), read(".env.example"));
    let set: BTreeMap<_, _> = example
        .lines()
        .filter_map(|line| line.trim_start_matches('#').split_once('='))
        .filter(|(name, _)| is_variable(name))
        .collect();
    let mut asked = BTreeSet::new();
    for rest in compose.split("${").skip(1) {
        let (name, default) =
            rest.split('}').next().and_then(|place| place.split_once(":-")).expect("each has a default");
        asked.insert(name);
        let written = set.get(name).unwrap_or_else(|| panic!(".env.example lacks {name}"));
        assert!(*written == default || default.is_empty(), "{name}: {written} and {default}");
    }
    assert_eq!(asked, set.keys().copied().collect());
}

#[test]
fn each_secret_that_is_mounted_is_made_and_is_where_it_is_read() {
    let (compose, make) = (read(COMPOSE), read("deploy/secrets/make"));
    let (_, made) = make.split_once("for name in ").expect("a list");
    let made: BTreeSet<_> = made.split(';').next().unwrap().split(' ').map(|name| format!("{name}_password")).collect();
    let (_, defined) = compose.split_once("\nsecrets:\n").expect("secrets");
    let defined: BTreeSet<_> = defined
        .lines()
        .filter_map(|line| line.trim().split_once(": {file: ./deploy/secrets/"))
        .map(|(name, file)| {
            assert_eq!(file, format!("{name}}}"));
            name.to_owned()
        })
        .collect();
    assert_eq!(made, defined);
    for rest in compose.split("/run/secrets/").skip(1) {
        let name = rest.split(|c: char| !c.is_ascii_lowercase() && c != '_').next().unwrap();
        assert!(defined.contains(name), "{name}");
    }
    // Of systemd: the credential is where the variable says.
    for (file, unit) in units().into_iter().filter(|(file, _)| !file.ends_with("/config-api.service")) {
        assert!(unit.contains("LoadCredential=database_password:/etc/config-api/"), "{file}");
        assert!(unit.contains("Environment=DATABASE_PASSWORD_FILE=%d/database_password"), "{file}");
    }
    for file in manifests() {
        let text = read(&file);
        for (_, path) in manifest_variables(&text).into_iter().filter(|(name, _)| name == "DATABASE_PASSWORD_FILE") {
            assert_eq!(path, "/run/secrets/database/password", "{file}");
            assert!(
                text.contains("mountPath: /run/secrets/database,")
                    && text.contains("items: [{key: password, path: password}]"),
                "{file}"
            );
        }
    }
}

#[test]
fn files_that_are_mounted_are_there() {
    let mut seen = 0;
    for line in read(COMPOSE).lines() {
        let Some((_, mount)) = line.split_once("./") else { continue };
        let path = mount.split([':', '}']).next().unwrap();
        if path.starts_with("deploy/secrets/") {
            continue;
        }
        assert!(root().join(path).exists(), "{COMPOSE} mounts {path}");
        seen += 1;
    }
    assert!(seen >= 8, "{seen}");
}

/// What `--help` names, of the program and its tasks.
async fn variables_of(program: &str) -> BTreeSet<String> {
    let mut help = run(program, &["--help"], &[]).await.output;
    if program == "command-service" {
        help.push_str(&run(program, &["migrate", "--help"], &[]).await.output);
    }
    let named = help.split("[env: ").skip(1);
    named.map(|rest| rest.split([']', '=']).next().expect("a name").to_owned()).collect()
}

/// The blocks of compose by their names: services, and what they share.
fn compose() -> BTreeMap<String, String> {
    let text = read(COMPOSE);
    let mut blocks = BTreeMap::<_, String>::new();
    let (mut name, mut in_services) = (String::new(), false);
    for line in text.lines() {
        let indented = line.len() - line.trim_start().len();
        let key = line.trim().split_once(':').map(|(key, _)| key);
        match (indented, key) {
            (0, Some(key)) if !line.starts_with('#') => {
                in_services = key == "services";
                key.clone_into(&mut name);
            }
            (2, Some(key)) if in_services && !line.trim().starts_with('#') => key.clone_into(&mut name),
            _ => {}
        }
        let block = blocks.entry(name.clone()).or_default();
        block.push_str(line);
        block.push('\n');
    }
    assert!(blocks.contains_key("x-settings") && blocks.contains_key("gateway"), "{:?}", blocks.keys());
    blocks
}

fn compose_variables(block: &str) -> Vec<(String, String)> {
    let lines = block.lines().map(str::trim).filter_map(|line| line.split_once(": "));
    lines.filter(|(name, _)| is_variable(name)).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn manifest_variables(document: &str) -> Vec<(String, String)> {
    let entries = document
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- {name: ")?.strip_suffix('}')?.split_once(", value: "));
    entries.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned())).collect()
}

fn is_variable(name: &str) -> bool {
    name.len() > 2 && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

/// Which of our images is run.
fn program_of(block: &str) -> Option<&'static str> {
    let image = block.lines().find_map(|line| line.trim().strip_prefix("image: config-api/"))?;
    Some(PROGRAMS.into_iter().find(|program| image.split(':').next() == Some(program)).expect(image))
}

fn program_of_unit(unit: &str) -> &'static str {
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/")).expect("a program");
    PROGRAMS.into_iter().find(|program| line.split(' ').next() == Some(program)).expect(line)
}

fn places<'a>(text: &'a str, prefix: &'a str) -> impl Iterator<Item = String> + 'a {
    let named = text.split("${").skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name);
    named.filter(move |name| name.starts_with(prefix) && is_variable(name)).map(str::to_owned)
}

fn manifests() -> Vec<String> {
    let folder = "deploy/kubernetes/base";
    let mut found: Vec<_> = fs::read_dir(root().join(folder))
        .expect("the manifests")
        .map(|entry| format!("{folder}/{}", entry.expect("it is read").file_name().to_str().expect("UTF-8")))
        .collect();
    found.push("deploy/kubernetes/overlays/small/kustomization.yaml".to_owned());
    assert!(found.len() > 8, "{found:?}");
    found
}

fn units() -> Vec<(String, String)> {
    let folder = "deploy/systemd";
    let files =
        fs::read_dir(root().join(folder)).expect("the units").map(|entry| entry.expect("it is read").file_name());
    let files = files.map(|file| format!("{folder}/{}", file.to_str().expect("UTF-8")));
    let units: Vec<_> =
        files.filter(|file| file.ends_with(".service")).map(|file| (file.clone(), read(&file))).collect();
    assert_eq!(units.len(), 4);
    units
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the root").to_owned()
}
