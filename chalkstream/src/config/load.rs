//! Reads the configuration: file, then environment, then flags, each key checked by name.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Config, DedupKind, KeysHome, LogFormat, LogKind, RedisUrl, Secret, keys, secrets};

/// What the environment may set: `CHALKSTREAM__INGEST__LISTEN` is `ingest.listen`.
const ENVIRONMENT_PREFIX: &str = "CHALKSTREAM__";

/// Values given as flags; they win.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overrides {
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) listen: Option<String>,
    pub(crate) clickhouse_listen: Option<SocketAddr>,
    pub(crate) log_format: Option<LogFormat>,
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("could not read the configuration file {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is not valid TOML: {message}", path.display())]
    Syntax { path: PathBuf, message: String },
    #[error("unknown key `{key}` in {origin}")]
    UnknownKey { key: String, origin: String, nearest: Option<String> },
    #[error("`{key}` in {origin} is a secret, and secrets do not stand in the configuration file")]
    SecretInFile { key: String, origin: String },
    #[error("invalid configuration: {message}")]
    Invalid { message: String },
    #[error("could not read the password from {}", path.display())]
    PasswordFile { path: PathBuf, source: std::io::Error },
    #[error("could not read the address of Redis from {}", path.display())]
    RedisUrlFile { path: PathBuf, source: std::io::Error },
}

impl ConfigError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::Read { .. } => "name an existing file with --config, or leave it out".to_owned(),
            Self::Syntax { .. } | Self::Invalid { .. } => {
                "chalkstream.toml in the repository shows every key with its default".to_owned()
            }
            Self::UnknownKey { nearest: Some(nearest), .. } => format!("did you mean `{nearest}`?"),
            Self::UnknownKey { nearest: None, .. } => {
                "chalkstream.toml in the repository lists every key".to_owned()
            }
            Self::SecretInFile { key, .. } => instead_of(key),
            Self::PasswordFile { .. } => {
                "`clickhouse.password_file` must name a file that this user can read".to_owned()
            }
            Self::RedisUrlFile { .. } => {
                "`ingest.dedup.redis_url_file` must name a file that this user can read".to_owned()
            }
        }
    }
}

fn variable_of(key: &str) -> String {
    let open = keys::OPEN_TABLES.iter().find_map(|open| {
        let property = key.strip_prefix(open)?.strip_prefix('.')?;
        Some(format!("{open}.{}", property.replace(['.', '-'], "_")))
    });
    let key = open.unwrap_or_else(|| key.to_owned());
    format!("{ENVIRONMENT_PREFIX}{}", key.to_ascii_uppercase().replace('.', "__"))
}

/// Where a secret goes that stood at `key` in the file.
fn instead_of(key: &str) -> String {
    let known = keys::known();
    let in_file = format!("{key}_file");
    if key.starts_with("ingest.jwt.") {
        "name a file as `secret_file`, or a variable of the environment as `secret_env`".to_owned()
    } else if key == "clickhouse.url" {
        format!(
            "set {}, and leave the password out of the address",
            variable_of("clickhouse.password")
        )
    } else if known.contains(&in_file) {
        format!("set {}, or write it to a file and name that as `{in_file}`", variable_of(key))
    } else {
        format!("set {} instead", variable_of(key))
    }
}

/// Where the configuration comes from, to be read again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Source {
    pub(crate) file: Option<PathBuf>,
    pub(crate) flags: Overrides,
}

impl Source {
    /// Reads and checks file, environment and flags.
    pub(crate) fn load(&self) -> Result<Config, ConfigError> {
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            // What is not UTF-8 cannot be one of ours.
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        load(self.file.as_deref(), environment, self.flags.clone())
    }
}

/// Reads and checks the whole configuration.
pub(crate) fn load(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    flags: Overrides,
) -> Result<Config, ConfigError> {
    let mut table = match file {
        Some(path) => read_file(path)?,
        None => Table::new(),
    };
    overlay_environment(&mut table, environment)?;
    let mut config: Config = table.try_into().map_err(|error: toml::de::Error| {
        // The message, and the key on a line of its own.
        let message = error.to_string().trim_end().replace('\n', ", ");
        ConfigError::Invalid { message }
    })?;
    let Overrides { data_dir, listen, clickhouse_listen, log_format } = flags;
    config.data_dir = data_dir.unwrap_or(config.data_dir);
    config.ingest.listen = listen.unwrap_or(config.ingest.listen);
    config.clickhouse.listen = clickhouse_listen.unwrap_or(config.clickhouse.listen);
    config.logging.format = log_format.unwrap_or(config.logging.format);
    if let (None, Some(path)) = (&config.clickhouse.password, &config.clickhouse.password_file) {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::PasswordFile { path: path.clone(), source })?;
        config.clickhouse.password = Some(Secret::new(text.trim_end().to_owned()));
    }
    let dedup = &mut config.ingest.dedup;
    if let (None, Some(path)) = (&dedup.redis_url, &dedup.redis_url_file) {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::RedisUrlFile { path: path.clone(), source })?;
        let url = RedisUrl::try_from(text).map_err(|wrong| ConfigError::Invalid {
            message: format!("what {} holds {wrong}", path.display()),
        })?;
        dedup.redis_url = Some(url);
    }
    validate(&config)?;
    Ok(config)
}

fn read_file(path: &Path) -> Result<Table, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let mut table: Table = text.parse().map_err(|error: toml::de::Error| {
        // Not the line itself: it may hold a secret.
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = 1 + before.matches('\n').count();
        let message = format!("line {line}: {}", error.message().trim_end());
        ConfigError::Syntax { path: path.to_owned(), message }
    })?;
    flatten_open_tables(&mut table);
    let origin = path.display().to_string();
    if let Some(key) = keys::unknown_in(&table).into_iter().next() {
        let nearest = keys::nearest(&key);
        return Err(ConfigError::UnknownKey { key, origin, nearest });
    }
    match secrets::find(&table) {
        Some(key) => Err(ConfigError::SecretInFile { key, origin }),
        None => Ok(table),
    }
}

/// `sasl.password = "…"` under `[log.kafka]` is one property, not a table; numbers are text there.
fn flatten_open_tables(table: &mut Table) {
    for open in keys::OPEN_TABLES {
        let Some((section, name)) = open.split_once('.') else { continue };
        let Some(Value::Table(section)) = table.get_mut(section) else { continue };
        if let Some(Value::Table(inner)) = section.get(name) {
            let mut flat = Table::new();
            flatten(inner, "", &mut flat);
            section.insert(name.to_owned(), Value::Table(flat));
        }
    }
}

fn flatten(table: &Table, prefix: &str, into: &mut Table) {
    for (name, value) in table {
        let key = keys::join(prefix, name);
        match value {
            Value::Table(inner) => flatten(inner, &key, into),
            Value::String(_) => {
                into.insert(key, value.clone());
            }
            other => {
                into.insert(key, Value::String(other.to_string()));
            }
        }
    }
}

fn overlay_environment(
    table: &mut Table,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<(), ConfigError> {
    let mut variables: Vec<_> =
        environment.filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX)).collect();
    variables.sort();
    let known = keys::known();
    for (name, text) in variables {
        let path = name.trim_start_matches(ENVIRONMENT_PREFIX).to_ascii_lowercase();
        let key = path.replace("__", ".");
        let open = keys::OPEN_TABLES.iter().find_map(|open| {
            let property = key.strip_prefix(open)?.strip_prefix('.')?;
            // librdkafka's properties have dots, which no variable's name can have.
            let dotted = *open == "log.kafka";
            Some((*open, if dotted { property.replace('_', ".") } else { property.to_owned() }))
        });
        if let Some((open, property)) = open {
            set(table, &mut open.split('.').chain([property.as_str()]), Value::String(text));
        } else if known.contains(&key) {
            let value = typed(&key, text)?;
            set(table, &mut key.split('.'), value);
        } else {
            let nearest = keys::nearest(&key).map(|key| variable_of(&key));
            let origin = "the environment".to_owned();
            return Err(ConfigError::UnknownKey { key: name, origin, nearest });
        }
    }
    Ok(())
}

/// The text as the type that the key has.
fn typed(key: &str, text: String) -> Result<Value, ConfigError> {
    match keys::sample(key) {
        Some(Value::Integer(_)) => text.trim().parse().map(Value::Integer).map_err(|_error| {
            let variable = variable_of(key);
            ConfigError::Invalid {
                message: format!("{variable} must be a whole number, not `{text}`"),
            }
        }),
        // A list is written with commas.
        Some(Value::Array(_)) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Ok(Value::Array(items.map(|item| Value::String(item.to_owned())).collect()))
        }
        Some(Value::Float(_)) => text.trim().parse().map(Value::Float).map_err(|_error| {
            let variable = variable_of(key);
            ConfigError::Invalid { message: format!("{variable} must be a number, not `{text}`") }
        }),
        Some(Value::Boolean(_)) => text.trim().parse().map(Value::Boolean).map_err(|_error| {
            let variable = variable_of(key);
            ConfigError::Invalid {
                message: format!("{variable} must be true or false, not `{text}`"),
            }
        }),
        _ => Ok(Value::String(text)),
    }
}

fn set(table: &mut Table, path: &mut dyn Iterator<Item = &str>, value: Value) {
    let mut names: Vec<&str> = path.collect();
    let Some(last) = names.pop() else { return };
    let mut table = table;
    for name in names {
        let entry = table.entry(name.to_owned()).or_insert_with(|| Value::Table(Table::new()));
        match entry {
            Value::Table(inner) => table = inner,
            _ => return,
        }
    }
    table.insert(last.to_owned(), value);
}

/// What no single key can tell.
fn validate(config: &Config) -> Result<(), ConfigError> {
    let invalid = |message: String| Err(ConfigError::Invalid { message });
    if config.log.partitions == 0 {
        return invalid("`log.partitions` must be at least 1".to_owned());
    }
    if config.log.spool.enabled && config.log.kind == LogKind::Embedded {
        return invalid(
            "`log.spool.enabled` needs `log.kind = \"kafka\"`: the embedded log is on this disk itself"
                .to_owned(),
        );
    }
    if config.ingest.dedup.kind == DedupKind::Redis && config.log.kind == LogKind::Embedded {
        return invalid(
            "`ingest.dedup.kind = \"redis\"` needs `log.kind = \"kafka\"`: the embedded log serves one node and keeps its own index"
                .to_owned(),
        );
    }
    if config.log.breaker.slow_after >= config.ingest.request_timeout {
        return invalid(
            "`log.breaker.slow_after` must be shorter than `ingest.request_timeout`, or requests end before Kafka counts as slow"
                .to_owned(),
        );
    }
    config
        .ingest
        .validate()
        .map_err(|error| ConfigError::Invalid { message: error.to_string() })?;
    if config.ingest.keys.store == Some(KeysHome::Topic) && config.log.kind == LogKind::Embedded {
        return invalid("`ingest.keys.store = \"topic\"` needs `log.kind = \"kafka\"`".to_owned());
    }
    crate::logging::filter(&config.logging.level)
        .map_err(|error| ConfigError::Invalid { message: format!("`logging.level`: {error}") })?;
    config.telemetry.validate().map_err(|message| ConfigError::Invalid { message })?;
    for (key, span) in [
        ("log.breaker.slow_after", config.log.breaker.slow_after),
        ("log.breaker.probe_every", config.log.breaker.probe_every),
        ("process.flush_interval", config.process.flush_interval),
        ("process.checkpoint_interval", config.process.checkpoint_interval),
        ("archive.interval", config.archive.interval),
        ("shutdown.deadline", config.shutdown.deadline),
    ] {
        if span.get().is_zero() {
            return invalid(format!("`{key}` must be above zero"));
        }
    }
    Ok(())
}
