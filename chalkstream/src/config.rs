//! The configuration: one `chalkstream.toml`, environment variables over it, flags over both.
//!
//! Always true: an unknown key is an error that names the nearest known one; every default is the
//! one that the reference `chalkstream.toml` shows; secrets print as `***` and never stand in the
//! file.
//! Not here: what the values do. Each part of the pipeline gets its own options made from them.

mod keys;
mod load;
mod secrets;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use chalkstream_access::KeysOptions;
use chalkstream_sql::ReaderLimits;
use serde::{Deserialize, Serialize};

pub(crate) use crate::telemetry::Telemetry;
pub(crate) use chalkstream_access::{ByteSize, KeysHome, MetricsOptions, Span, TlsOptions};
pub(crate) use chalkstream_ingest::{DedupKind, DedupOptions, IngestOptions, RedisUrl};
pub(crate) use keys::{changed as changed_keys, redacted};
#[cfg(test)]
use load::load;
pub(crate) use load::{ConfigError, Overrides, Source};

/// Everything that can be configured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Where everything is kept that has no other place.
    pub(crate) data_dir: PathBuf,
    pub(crate) ingest: IngestOptions,
    pub(crate) log: Log,
    pub(crate) process: Process,
    pub(crate) clickhouse: ClickHouse,
    pub(crate) archive: Archive,
    pub(crate) lake: Lake,
    pub(crate) shutdown: Shutdown,
    pub(crate) logging: Logging,
    pub(crate) telemetry: Telemetry,
}

/// Which event log, and how it is laid out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    pub(crate) kind: LogKind,
    /// Partitions of a new log. An existing log keeps its own.
    pub(crate) partitions: u32,
    pub(crate) brokers: String,
    /// Replicas of topics that are created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) replication: Option<u16>,
    /// Where large payloads of control records are; `<data_dir>/blobs` where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) blobs: Option<PathBuf>,
    pub(crate) breaker: Breaker,
    pub(crate) spool: Spool,
    /// Any property of librdkafka.
    pub(crate) kafka: BTreeMap<String, String>,
}

/// When ingest holds Kafka for slow or down, and when it asks again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Breaker {
    /// An append that is not acknowledged after so long opens the breaker.
    pub(crate) slow_after: Span,
    /// How often an open breaker asks.
    pub(crate) probe_every: Span,
}

/// Where ingest keeps events while Kafka does not take them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Spool {
    pub(crate) enabled: bool,
    /// Its folder; `<data_dir>/spool` where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<PathBuf>,
    /// Records that may wait in it; above it the answer is 503.
    pub(crate) max_bytes: ByteSize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogKind {
    Embedded,
    Kafka,
}

/// The stream processors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Process {
    /// How long a change waits at most before it is written to the views' tables.
    pub(crate) flush_interval: Span,
    /// How often the packed states and the position are written.
    pub(crate) checkpoint_interval: Span,
    pub(crate) group: String,
}

/// Where the tables are: a server at `url`, or the embedded engine served on `listen`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ClickHouse {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<url::Url>,
    pub(crate) listen: SocketAddr,
    /// Memory of all readers of the embedded engine together; a quarter of the machine's where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reader_memory: Option<ByteSize>,
    /// Temporary files of all readers of the embedded engine together.
    pub(crate) reader_disk: ByteSize,
    /// How long a reader's query may run on the embedded engine.
    pub(crate) reader_timeout: Span,
    /// Who writes, on a server.
    pub(crate) user: String,
    #[serde(skip_serializing)]
    pub(crate) password: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) password_file: Option<PathBuf>,
}

impl ClickHouse {
    /// What readers of the embedded engine may use of the machine.
    pub(crate) fn readers(&self) -> ReaderLimits {
        let defaults = ReaderLimits::default();
        let memory_bytes = self.reader_memory.map(|memory| memory.get() as u64);
        ReaderLimits {
            memory_bytes: memory_bytes.unwrap_or(defaults.memory_bytes),
            disk_bytes: self.reader_disk.get() as u64,
            timeout: self.reader_timeout.get(),
        }
    }
}

/// The archiver, from the log to the lake.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Archive {
    pub(crate) interval: Span,
    pub(crate) group: String,
}

/// Where the lake's tables are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Lake {
    /// An URL or a local folder; `<data_dir>/lake` where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<String>,
    /// Options of the object store.
    pub(crate) options: BTreeMap<String, String>,
}

/// How the process ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Shutdown {
    /// How long a clean stop may take.
    pub(crate) deadline: Span,
}

/// Log lines of roles, on standard error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Logging {
    /// A level, or a list such as `info,chalkstream_ingest=debug`.
    pub(crate) level: String,
    pub(crate) format: LogFormat,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// A value that is never shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), port)
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("./data"),
            ingest: IngestOptions::default(),
            log: Log::default(),
            process: Process::default(),
            clickhouse: ClickHouse::default(),
            archive: Archive::default(),
            lake: Lake::default(),
            shutdown: Shutdown::default(),
            logging: Logging::default(),
            telemetry: Telemetry::default(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            kind: LogKind::Embedded,
            partitions: 12,
            brokers: "127.0.0.1:9092".to_owned(),
            replication: None,
            blobs: None,
            breaker: Breaker::default(),
            spool: Spool::default(),
            kafka: BTreeMap::new(),
        }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self { slow_after: Span::secs(3), probe_every: Span::secs(1) }
    }
}

impl Default for Spool {
    fn default() -> Self {
        Self { enabled: false, path: None, max_bytes: ByteSize::mib(1024) }
    }
}

impl Default for Process {
    fn default() -> Self {
        Self {
            flush_interval: Span::millis(200),
            checkpoint_interval: Span::secs(5),
            group: chalkstream_stream_processors::processor::GROUP.to_owned(),
        }
    }
}

impl Default for ClickHouse {
    fn default() -> Self {
        Self {
            url: None,
            listen: loopback(8123),
            reader_memory: None,
            reader_disk: ByteSize::mib(10 << 10),
            reader_timeout: Span::secs(60),
            user: "default".to_owned(),
            password: None,
            password_file: None,
        }
    }
}

impl Default for Archive {
    fn default() -> Self {
        Self { interval: Span::secs(10), group: chalkstream_batch_jobs::archiver::GROUP.to_owned() }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { deadline: Span::secs(30) }
    }
}

impl Default for Logging {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

/// The defaults with every optional value set: the source of the list of known keys.
fn every_key_set() -> Config {
    let path = || Some(PathBuf::from("file"));
    let dedup = DedupOptions {
        redis_url: RedisUrl::try_from("redis://127.0.0.1:6379".to_owned()).ok(),
        redis_url_file: path(),
        redis_ca_file: path(),
        ..DedupOptions::default()
    };
    Config {
        ingest: IngestOptions {
            keys: KeysOptions { store: Some(KeysHome::File) },
            metrics: MetricsOptions { token_file: path(), ..MetricsOptions::default() },
            tls: TlsOptions { cert: path(), key: path(), client_ca: path() },
            dedup,
            ..IngestOptions::default()
        },
        log: Log {
            replication: Some(3),
            blobs: path(),
            spool: Spool { path: path(), ..Spool::default() },
            ..Log::default()
        },
        clickhouse: ClickHouse {
            url: url::Url::parse("http://127.0.0.1:8123").ok(),
            reader_memory: Some(ByteSize::mib(4 << 10)),
            password_file: Some(PathBuf::from("password")),
            ..ClickHouse::default()
        },
        telemetry: Telemetry {
            otlp_endpoint: url::Url::parse("http://127.0.0.1:4318").ok(),
            ..Telemetry::default()
        },
        lake: Lake { url: Some("s3://bucket/prefix".to_owned()), ..Lake::default() },
        ..Config::default()
    }
}

#[cfg(test)]
mod tests;
