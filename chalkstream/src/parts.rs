//! Makes the parts of the pipeline from the configuration, the same for roles and for commands.
//!
//! Always true: what is opened here lies in a data folder whose lock the caller holds.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use chalkstream_access::{KeyStore, KeysHome};
use chalkstream_batch_jobs::lake::{Lake, LakeOptions};
use chalkstream_event_log::blobs::BlobStore;
use chalkstream_event_log::embedded::{EmbeddedLog, EmbeddedOptions as EmbeddedLogOptions};
use chalkstream_event_log::intake::{GuardOptions, GuardedLog};
use chalkstream_event_log::kafka::{KafkaLog, KafkaOptions};
use chalkstream_event_log::seen::{LocalIndex, RedisOptions, SharedIndex};
use chalkstream_event_log::spool::SpoolOptions;
use chalkstream_event_log::{EventLog, Intake, SeenIndex};
use chalkstream_sql::{Credentials, Database, EmbeddedOptions, EmbeddedServer, ReaderLimits};
use chalkstream_stream_processors::first_seen::{FirstSeen, FirstSeenOptions};

use crate::config::{Config, DedupKind, DedupOptions, LogKind};
use crate::folder::{DataFolder, Layout};
use crate::registrar::Registrar;
use crate::schools::SchoolBook;

/// The database that everything is in.
pub(crate) const DATABASE: &str = "chalkstream";

/// Any port of this machine alone.
pub(crate) const FREE_PORT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The event log, and what answers clients about duplicates.
#[derive(Clone, Debug)]
pub(crate) struct OpenLog {
    pub(crate) log: Arc<dyn EventLog>,
    /// The same log where it is embedded, to be asked whether it still writes.
    pub(crate) embedded: Option<Arc<EmbeddedLog>>,
    /// The same log where it is Kafka.
    kafka: Option<Arc<KafkaLog>>,
}

/// Where ingest puts events.
#[derive(Clone, Debug)]
pub(crate) struct OpenIntake {
    pub(crate) intake: Arc<dyn Intake>,
    /// What stands before Kafka, to be closed before it.
    pub(crate) guarded: Option<Arc<GuardedLog>>,
}

pub(crate) async fn open_log(config: &Config, layout: &Layout) -> Result<OpenLog> {
    match config.log.kind {
        LogKind::Embedded => {
            let mut options = EmbeddedLogOptions::new(layout.log());
            options.partitions = config.log.partitions;
            let opened = tokio::task::spawn_blocking(move || EmbeddedLog::open(options)).await;
            let log = opened.context("opening the log had a bug")??;
            let opened = Arc::clone(&log) as Arc<dyn EventLog>;
            Ok(OpenLog { log: opened, embedded: Some(log), kafka: None })
        }
        LogKind::Kafka => {
            let log = KafkaLog::connect(kafka(config)).await?;
            let opened = Arc::clone(&log) as Arc<dyn EventLog>;
            Ok(OpenLog { log: opened, embedded: None, kafka: Some(log) })
        }
    }
}

fn kafka(config: &Config) -> KafkaOptions {
    let mut options = KafkaOptions::new(&config.log.brokers);
    options.properties.clone_from(&config.log.kafka);
    options.partitions = config.log.partitions;
    options.replication = config.log.replication;
    options
}

/// Where a process has its keys: `standalone` in its folder, whatever log it has; the roles of a
/// cluster where all of them see them.
pub(crate) fn keys_home(config: &Config, standalone: bool) -> KeysHome {
    let alone = standalone || config.log.kind == LogKind::Embedded;
    let usual = if alone { KeysHome::File } else { KeysHome::Topic };
    config.ingest.keys.store.unwrap_or(usual)
}

pub(crate) async fn open_keys(
    config: &Config,
    layout: &Layout,
    home: KeysHome,
) -> Result<KeyStore> {
    match home {
        KeysHome::File => Ok(KeyStore::open(layout.keys())?),
        KeysHome::Topic => Ok(KeyStore::on_kafka(kafka(config)).await?),
    }
}

/// The keys for a command in a folder that no process runs on. A folder with a key file is one that
/// `standalone` has run in.
pub(crate) async fn open_keys_offline(config: &Config, layout: &Layout) -> Result<KeyStore> {
    let file = layout.keys();
    let standalone =
        file.try_exists().with_context(|| format!("could not read {}", file.display()));
    open_keys(config, layout, keys_home(config, standalone?)).await
}

impl OpenLog {
    /// Where ingest puts events: the embedded log itself, or Kafka behind a breaker.
    pub(crate) async fn intake(&self, config: &Config, layout: &Layout) -> Result<OpenIntake> {
        if let Some(embedded) = &self.embedded {
            let intake = Arc::clone(embedded) as Arc<dyn Intake>;
            return Ok(OpenIntake { intake, guarded: None });
        }
        let options = GuardOptions {
            slow_after: config.log.breaker.slow_after.get(),
            probe_every: config.log.breaker.probe_every.get(),
        };
        let spool = &config.log.spool;
        let guarded = match self.kafka.as_ref().filter(|_| spool.enabled) {
            None => GuardedLog::new(Arc::clone(&self.log), options),
            Some(kafka) => {
                let path = spool.path.clone().unwrap_or_else(|| layout.spool());
                let mut spool_options = SpoolOptions::new(path);
                spool_options.max_bytes = spool.max_bytes.get() as u64;
                let patient = kafka.patient()?;
                GuardedLog::with_spool(Arc::clone(&self.log), patient, options, spool_options)
                    .await?
            }
        };
        let intake = Arc::clone(&guarded) as Arc<dyn Intake>;
        Ok(OpenIntake { intake, guarded: Some(guarded) })
    }

    /// The index that tells clients what is a duplicate. Opened by ingest alone.
    pub(crate) async fn seen(
        &self,
        dedup: &DedupOptions,
        layout: &Layout,
    ) -> Result<Arc<dyn SeenIndex>> {
        if let Some(embedded) = &self.embedded {
            return Ok(Arc::clone(embedded) as Arc<dyn SeenIndex>);
        }
        let path = layout.index().join("seen");
        let (horizon, max_entries) = (dedup.horizon.get(), dedup.max_entries.get());
        let open = move || LocalIndex::open_with(path, horizon, max_entries);
        let opened = tokio::task::spawn_blocking(open).await;
        let local = opened.context("opening the index of seen events had a bug")??;
        let Some(url) = dedup.redis_url.as_ref().filter(|_| dedup.kind == DedupKind::Redis) else {
            return Ok(local);
        };
        let options = RedisOptions {
            ca_file: dedup.redis_ca_file.clone(),
            prefix: dedup.redis_prefix.clone(),
            horizon,
            timeout: dedup.redis_timeout.get(),
            ..RedisOptions::new(url.expose())
        };
        Ok(SharedIndex::open(local, &options)?)
    }
}

pub(crate) fn open_blobs(config: &Config, layout: &Layout) -> Result<BlobStore> {
    Ok(BlobStore::open(config.log.blobs.clone().unwrap_or_else(|| layout.blobs()))?)
}

/// The duplicates' index of processor and archiver.
pub(crate) async fn open_index(layout: &Layout, log: &dyn EventLog) -> Result<Arc<FirstSeen>> {
    let options = FirstSeenOptions::new(layout.index().join("first-seen"));
    let identity = log.identity().clone();
    let opened = tokio::task::spawn_blocking(move || FirstSeen::open(&options, &identity)).await;
    Ok(opened.context("opening the index of duplicates had a bug")??)
}

pub(crate) fn open_lake(config: &Config, layout: &Layout) -> Result<Lake> {
    let url = match &config.lake.url {
        Some(url) => url.clone(),
        None => layout
            .lake()
            .to_str()
            .context("the data folder's path is not UTF-8; choose another with --data-dir")?
            .to_owned(),
    };
    Ok(Lake::open(&LakeOptions { url, options: config.lake.options.clone() })?)
}

/// The engine in this process, on the folder's tables.
pub(crate) async fn embedded_clickhouse(
    folder: &DataFolder,
    listen: SocketAddr,
    readers: ReaderLimits,
) -> Result<EmbeddedServer> {
    let layout = folder.layout();
    let credentials = Credentials::load_or_create(&layout.credentials())?;
    let data_dir = layout.clickhouse();
    let options = EmbeddedOptions { data_dir, listen, credentials, library: None, readers };
    Ok(EmbeddedServer::start(options).await?)
}

/// The server at `clickhouse.url`, if one is configured.
pub(crate) fn clickhouse_server(config: &Config) -> Result<Option<Database>> {
    let Some(url) = &config.clickhouse.url else { return Ok(None) };
    let password = config.clickhouse.password.as_ref().map_or("", |secret| secret.expose());
    // The client joins its own path and query to the address.
    let url = url.as_str().trim_end_matches('/');
    Ok(Some(Database::new(url, &config.clickhouse.user, password, DATABASE)?))
}

/// Does an administrator's work in a folder that no process runs on.
pub(crate) async fn with_registrar<T>(
    config: &Config,
    folder: &DataFolder,
    work: impl AsyncFnOnce(&Registrar) -> Result<T>,
) -> Result<T> {
    let layout = folder.layout();
    let OpenLog { log, .. } = open_log(config, layout).await?;
    let registrar = Registrar {
        keys: open_keys_offline(config, layout).await?,
        schools: SchoolBook::new(layout.schools()),
        log: Arc::clone(&log),
        blobs: open_blobs(config, layout)?,
    };
    let done = work(&registrar).await;
    drop(registrar);
    let closed = log.close().await;
    let done = done?;
    closed?;
    Ok(done)
}
