use std::path::Path;

use super::*;

fn load_text(text: &str) -> Result<Config, ConfigError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    load(Some(file.path()), std::iter::empty(), Overrides::default())
}

fn load_environment(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    load(None, variables, Overrides::default())
}

#[track_caller]
fn check_refused(result: Result<Config, ConfigError>, parts: &[&str]) {
    let error = result.expect_err("the configuration should be refused");
    let text = format!("{error}; hint: {}", error.hint());
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
}

fn reference_path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../chalkstream.toml")
}

#[test]
fn the_reference_file_is_the_default() {
    let config = load(Some(&reference_path()), std::iter::empty(), Overrides::default()).unwrap();
    assert_eq!(config, Config::default());
}

#[test]
fn the_reference_file_shows_every_key_and_explains_it() {
    let text = std::fs::read_to_string(reference_path()).unwrap();
    for key in keys::known() {
        let (section, name) = key.rsplit_once('.').unwrap_or(("", &key));
        let (section, name) =
            if keys::is_open(&key) { (key.as_str(), "") } else { (section, name) };
        let body = match section {
            "" => text.split("\n[").next().unwrap(),
            section => text
                .split(&format!("\n[{section}]"))
                .nth(1)
                .unwrap_or_else(|| panic!("no section [{section}]"))
                .split("\n[")
                .next()
                .unwrap(),
        };
        let shown = body.lines().any(|line| {
            line.trim_start_matches("# ").split('=').next().is_some_and(|key| key.trim() == name)
        });
        let secret = keys::SECRETS.contains(&key.as_str());
        let list = text.contains(&format!("\n# [[{key}]]\n"));
        assert!(name.is_empty() || shown || secret || list, "`{key}` is not in chalkstream.toml");
    }
}

#[test]
fn the_issuer_in_the_reference_file_shows_every_key_and_is_one() {
    let text = std::fs::read_to_string(reference_path()).unwrap();
    let lines = text.lines().skip_while(|line| *line != "# [[ingest.jwt]]");
    let block = lines.map_while(|line| line.strip_prefix("# ")).collect::<Vec<_>>();
    let config = load_text(&block.join("\n")).unwrap();
    let [issuer] = config.ingest.jwt.as_slice() else { panic!("{:?}", config.ingest.jwt) };
    assert_eq!(issuer.name, "portal");
    // What is set there, and the other places where keys may be.
    let mut all = toml::Table::try_from(issuer).unwrap();
    for place in ["jwks_file", "public_key_file", "secret_file", "secret_env"] {
        let commented = |line: &&str| line.starts_with(&format!("# {place} = "));
        let line = block.iter().copied().find(commented).expect(place);
        all.extend(line.trim_start_matches("# ").parse::<toml::Table>().unwrap());
    }
    check_refused(
        load_text(&block.join("\n").replace("# secret_env", "secret_env")),
        &["exactly one"],
    );
    let error = toml::from_str::<chalkstream_access::JwtOptions>("unknown = 1").unwrap_err();
    for name in error.to_string().split('`').skip(3).step_by(2) {
        assert!(all.contains_key(name), "`{name}` is not in chalkstream.toml");
    }
}

#[test]
fn lists_come_from_the_environment_with_commas() {
    let origins = "https://a.example, https://b.example";
    let config = load_environment(&[("CHALKSTREAM__INGEST__CORS__ORIGINS", origins)]).unwrap();
    assert_eq!(config.ingest.cors.origins, ["https://a.example", "https://b.example"]);
    check_refused(
        load_environment(&[("CHALKSTREAM__INGEST__CORS__ORIGINS", "a.example")]),
        &["ingest.cors.origins", "a.example"],
    );
    check_refused(
        load_environment(&[("CHALKSTREAM__INGEST__KEYS__STORE", "topic")]),
        &["ingest.keys.store", "log.kind"],
    );
}

#[test]
fn an_unknown_key_names_the_nearest_one() {
    check_refused(
        load_text("[ingest]\nlisen = \"127.0.0.1:1\"\n"),
        &["`ingest.lisen`", "`ingest.listen`"],
    );
    check_refused(load_text("datadir = \"x\"\n"), &["`datadir`", "`data_dir`"]);
    check_refused(load_text("listen = \"127.0.0.1:1\"\n"), &["`listen`", ".listen`"]);
    check_refused(
        load_text("[scheduling]\nnonsense = \"x\"\n"),
        &["`scheduling.nonsense`", "every key"],
    );
    check_refused(
        load_environment(&[("CHALKSTREAM__INGEST__LISEN", "x")]),
        &["CHALKSTREAM__INGEST__LISEN", "the environment", "CHALKSTREAM__INGEST__LISTEN"],
    );
}

#[test]
fn values_of_the_wrong_kind_say_what_they_must_be() {
    check_refused(
        load_text("[archive]\ninterval = \"soon\"\n"),
        &["`soon`", "30s", "archive.interval"],
    );
    check_refused(load_text("[clickhouse]\nlisten = \"nowhere\"\n"), &["socket address"]);
    check_refused(load_text("[log]\npartitions = 0\n"), &["`log.partitions`"]);
    check_refused(load_text("[log]\nkind = \"pulsar\"\n"), &["pulsar", "kafka"]);
    check_refused(load_text("[ingest\n"), &["TOML"]);
    check_refused(load_text("[ingest]\nmax_event = \"20MiB\"\n"), &["max_event", "max_body"]);
    check_refused(load_environment(&[("CHALKSTREAM__LOG__PARTITIONS", "many")]), &["whole number"]);
}

#[test]
fn the_environment_overrides_the_file_and_flags_override_both() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[ingest]\nlisten = \"127.0.0.1:1\"\nmax_events = 7\n").unwrap();
    let environment = [
        ("CHALKSTREAM__INGEST__LISTEN".to_owned(), "127.0.0.1:2".to_owned()),
        ("CHALKSTREAM__LOG__PARTITIONS".to_owned(), "3".to_owned()),
        ("CHALKSTREAM_KEY".to_owned(), "no override".to_owned()),
    ];
    let flags = Overrides { data_dir: Some("elsewhere".into()), ..Overrides::default() };
    let config = load(Some(file.path()), environment.into_iter(), flags).unwrap();
    assert_eq!(config.ingest.listen, "127.0.0.1:2");
    assert_eq!(config.ingest.max_events.get(), 7);
    assert_eq!(config.log.partitions, 3);
    assert_eq!(config.data_dir, Path::new("elsewhere"));
}

#[test]
fn foreign_properties_pass_through_with_their_dots() {
    let config = load_text("[log.kafka]\nsasl.mechanism = \"PLAIN\"\n\"linger.ms\" = 5\n").unwrap();
    assert_eq!(config.log.kafka["sasl.mechanism"], "PLAIN");
    assert_eq!(config.log.kafka["linger.ms"], "5");
    let config = load_environment(&[
        ("CHALKSTREAM__LOG__KAFKA__SASL_PASSWORD", "p"),
        ("CHALKSTREAM__LAKE__OPTIONS__AWS_REGION", "eu-west-1"),
    ])
    .unwrap();
    assert_eq!(config.log.kafka["sasl.password"], "p");
    assert_eq!(config.lake.options["aws_region"], "eu-west-1");
}

#[test]
fn secrets_are_refused_in_the_file_and_never_shown() {
    check_refused(
        load_text("[clickhouse]\npassword = \"hunter2\"\n"),
        &["`clickhouse.password`", "CHALKSTREAM__CLICKHOUSE__PASSWORD"],
    );
    check_refused(
        load_text("[log.kafka]\nsasl.password = \"hunter2\"\n"),
        &["`log.kafka.sasl.password`", "CHALKSTREAM__LOG__KAFKA__SASL_PASSWORD"],
    );
    check_refused(
        load_text("[lake.options]\naws_secret_access_key = \"hunter2\"\n"),
        &["`lake.options.aws_secret_access_key`", "LAKE__OPTIONS__AWS_SECRET_ACCESS_KEY"],
    );
    check_refused(
        load_text("[clickhouse]\nurl = \"http://me:hunter2@h:1\"\n"),
        &["`clickhouse.url`", "CHALKSTREAM__CLICKHOUSE__PASSWORD"],
    );
    check_refused(
        load_text("[ingest.dedup]\nredis_url = \"redis://:hunter2@h:1/0\"\n"),
        &["`ingest.dedup.redis_url`", "`ingest.dedup.redis_url_file`"],
    );
    for cut in ["password = \"hunter2", "password = hunter2", "password hunter2"] {
        let error = load_text(&format!("[clickhouse]\n{cut}\n")).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert!(error.to_string().contains("line 2"), "{error}");
    }
    let config = load_environment(&[
        ("CHALKSTREAM__CLICKHOUSE__PASSWORD", "hunter2"),
        ("CHALKSTREAM__LAKE__OPTIONS__AWS_SECRET_ACCESS_KEY", "hunter2"),
        ("CHALKSTREAM__LOG__KAFKA__SASL_PASSWORD", "hunter2"),
    ])
    .unwrap();
    assert_eq!(config.clickhouse.password.as_ref().unwrap().expose(), "hunter2");
    let shown = keys::redacted(&config).unwrap().to_string();
    assert!(!shown.contains("hunter2") && shown.contains("***"), "{shown}");
    assert!(!format!("{:?}", config.clickhouse).contains("hunter2"));
}
