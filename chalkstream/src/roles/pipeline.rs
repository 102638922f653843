//! The parts of one process: started in order, stopped in the opposite one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chalkstream_access::{Grant, NodeQuota, Scope, SystemClock};
use chalkstream_batch_jobs::archiver::{Archiver, ArchiverHandle, ArchiverOptions};
use chalkstream_event_log::EventLog;
use chalkstream_event_log::blobs::BlobStore;
use chalkstream_event_log::embedded::EmbeddedLog;
use chalkstream_event_log::intake::GuardedLog;
use chalkstream_ingest::{Ingest, IngestParts, RunningIngest};
use chalkstream_schemas::SchoolId;
use chalkstream_sql::{Database, EmbeddedServer, migrations};
use chalkstream_stream_processors::first_seen::FirstSeen;
use chalkstream_stream_processors::{
    Processor, ProcessorHandle, ProcessorOptions, RejectedOptions, RejectedWriter,
};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::background::Background;
use super::{Ready, Role, watch};
use crate::config::{Config, IngestOptions};
use crate::control::{self, Control, RejectedWritten};
use crate::failure::Advice;
use crate::folder::{DataFolder, Runtime};
use crate::parts::{self, OpenIntake, OpenLog};
use crate::registrar::{NewKey, Registrar};
use crate::schools::SchoolBook;
use crate::tasks::{OnEnd, Tasks};

/// The school that the first start makes.
const FIRST_SCHOOL: &str = "default";

/// Everything that runs, or has been started so far.
#[derive(Debug)]
pub(super) struct Pipeline {
    role: Role,
    folder: DataFolder,
    background: Background,
    engine: Option<EmbeddedServer>,
    log: Option<Arc<dyn EventLog>>,
    /// The same log where it is embedded, to be asked whether it still writes.
    embedded: Option<Arc<EmbeddedLog>>,
    /// What stands between ingest and Kafka.
    guarded: Option<Arc<GuardedLog>>,
    processor: Option<ProcessorHandle>,
    rejected: Option<watch::Watched>,
    rejected_written: Option<RejectedWritten>,
    archiver: Option<Arc<ArchiverHandle>>,
    ingest: Option<RunningIngest>,
    taking: Option<Ingest>,
    control: CancellationToken,
}

impl Pipeline {
    pub(super) fn new(role: Role, folder: DataFolder) -> Result<Self> {
        Ok(Self {
            role,
            folder,
            background: Background::start(role)?,
            engine: None,
            log: None,
            embedded: None,
            guarded: None,
            processor: None,
            rejected: None,
            rejected_written: None,
            archiver: None,
            ingest: None,
            taking: None,
            control: CancellationToken::new(),
        })
    }

    /// Starts every part of the role, and announces it once all of them are ready.
    pub(super) async fn start(&mut self, config: &Config, tasks: &mut Tasks) -> Result<Ready> {
        let root = self.folder.layout().root().to_owned();
        tasks.spawn("the watch over the disk", OnEnd::Log, watch::disk(root));
        let listener = match self.role.ingests() {
            true => Some(listen(&config.ingest.listen).await?),
            false => None,
        };
        let database = match self.role.processes() {
            true => Some(self.start_clickhouse(config).await?),
            false => None,
        };
        let opened = parts::open_log(config, self.folder.layout()).await?;
        self.log = Some(Arc::clone(&opened.log));
        self.embedded.clone_from(&opened.embedded);
        if let Some(log) = opened.embedded.clone() {
            tasks.spawn("the event log", OnEnd::StopProcess, watch::embedded_log(log));
        }
        let blobs = parts::open_blobs(config, self.folder.layout())?;
        let index = match self.role.processes() || self.role.archives() {
            true => Some(parts::open_index(self.folder.layout(), opened.log.as_ref()).await?),
            false => None,
        };

        let mut registry = Registry::default();
        if let (Some(database), Some(index)) = (database, &index) {
            self.start_processor(config, tasks, &opened, database, index, &blobs, &mut registry)
                .await?;
        }
        if let Some(index) = index.filter(|_| self.role.archives()) {
            self.start_archiver(config, tasks, &opened, index, &blobs).await?;
        }
        let home = parts::keys_home(config, self.role == Role::Standalone);
        let keys = parts::open_keys(config, self.folder.layout(), home).await?;
        let registrar = Registrar {
            keys: keys.clone(),
            schools: SchoolBook::new(self.folder.layout().schools()),
            log: Arc::clone(&opened.log),
            blobs,
        };
        let key = match self.role {
            Role::Standalone => first_key(&registrar).await?,
            Role::Ingest | Role::Process | Role::Archive => None,
        };
        if let Some(listener) = listener {
            let seen = opened.seen(&config.ingest.dedup, self.folder.layout()).await?;
            let OpenIntake { intake: log, guarded } =
                opened.intake(config, self.folder.layout()).await?;
            self.guarded = guarded;
            let clock = Arc::new(SystemClock);
            let quota = Arc::new(NodeQuota::default());
            let parts = IngestParts { log, seen, keys, quota, clock, registry };
            let ingest = Ingest::new(config.ingest.clone(), parts)?;
            self.ingest = Some(ingest.start(listener)?);
            self.taking = Some(ingest);
        }
        self.start_control(tasks, registrar, &opened)?;
        let runtime = self.runtime(config);
        self.folder.announce(&runtime)?;
        Ok(Ready { runtime, key })
    }

    /// A server that is configured, or the engine in this process; with the newest tables.
    async fn start_clickhouse(&mut self, config: &Config) -> Result<Database> {
        if let Some(database) = parts::clickhouse_server(config)? {
            match self.role {
                Role::Standalone => {
                    migrations::migrate(&database).await?;
                }
                // Many processes share a server: who changes its tables is a decision.
                Role::Process | Role::Ingest | Role::Archive => {
                    migrations::check(&database).await?;
                }
            }
            return Ok(database);
        }
        let starting = parts::embedded_clickhouse(
            &self.folder,
            config.clickhouse.listen,
            config.clickhouse.readers(),
        );
        let engine = self.background.hosting(starting).await?;
        let database = engine.database();
        self.engine = Some(engine);
        migrations::migrate(&database).await?;
        Ok(database)
    }

    #[expect(clippy::too_many_arguments, reason = "each is one part that the processor works with")]
    async fn start_processor(
        &mut self,
        config: &Config,
        tasks: &mut Tasks,
        opened: &OpenLog,
        database: Database,
        index: &Arc<FirstSeen>,
        blobs: &BlobStore,
        registry: &mut Registry,
    ) -> Result<()> {
        let log = || Arc::clone(&opened.log);
        let mut options =
            ProcessorOptions::new(log(), database.clone(), Arc::clone(index), blobs.clone());
        options.group.clone_from(&config.process.group);
        options.tuning.flush_interval = config.process.flush_interval.get();
        options.tuning.checkpoint_interval = config.process.checkpoint_interval.get();
        options.tuning.settle_deadline = config.shutdown.deadline.get() / 2;
        let processor = self.background.hosting(Processor::start(options)).await?;
        processor.register_metrics(registry);
        tasks.spawn("the processor", OnEnd::StopProcess, watch::processor(processor.watch()));
        let metrics = processor.metrics().clone();
        self.processor = Some(processor);
        let rejected = RejectedOptions::new(log(), database, metrics);
        let rejected = self.background.hosting(RejectedWriter::start(rejected)).await?;
        self.rejected_written = Some(rejected.watch());
        let (watched, until_ended) = watch::rejected(rejected);
        tasks.spawn("the writer of rejected events", OnEnd::StopProcess, until_ended);
        self.rejected = Some(watched);
        Ok(())
    }

    async fn start_archiver(
        &mut self,
        config: &Config,
        tasks: &mut Tasks,
        opened: &OpenLog,
        index: Arc<FirstSeen>,
        blobs: &BlobStore,
    ) -> Result<()> {
        let lake = parts::open_lake(config, self.folder.layout())?;
        let mut options = ArchiverOptions::new(Arc::clone(&opened.log), lake, index, blobs.clone());
        options.interval = config.archive.interval.get();
        options.group.clone_from(&config.archive.group);
        let archiver = Arc::new(self.background.hosting(Archiver::start(options)).await?);
        tasks.spawn("the archiver", OnEnd::StopProcess, watch::archiver(archiver.watch()));
        self.archiver = Some(archiver);
        Ok(())
    }

    fn start_control(
        &self,
        tasks: &mut Tasks,
        registrar: Registrar,
        opened: &OpenLog,
    ) -> Result<()> {
        let control = Control {
            role: self.role.name(),
            registrar,
            log: Arc::clone(&opened.log),
            processor: self.processor.as_ref().map(ProcessorHandle::watch),
            metrics: self.processor.as_ref().map(|processor| processor.metrics().clone()),
            rejected: self.rejected_written.clone(),
            archiver: self.archiver.clone(),
            ingest: self.taking.clone(),
            stop: self.control.clone(),
            guarded: self.guarded.clone(),
        };
        let path = self.folder.layout().socket();
        let serving = control::serve(&path, control)?;
        tasks.spawn("control.sock", OnEnd::StopProcess, serving);
        Ok(())
    }

    fn runtime(&self, config: &Config) -> Runtime {
        let configured = config.clickhouse.url.as_ref();
        Runtime {
            pid: std::process::id(),
            role: self.role.name().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            http_url: self.ingest.as_ref().map(RunningIngest::url),
            clickhouse_url: match &self.engine {
                Some(engine) => Some(engine.url().to_owned()),
                None => configured.map(|url| url.as_str().trim_end_matches('/').to_owned()),
            },
        }
    }

    /// Gives ingest new options, if this process has one.
    pub(super) fn reload_ingest(&self, options: &IngestOptions) -> Result<()> {
        if let Some(ingest) = &self.ingest {
            ingest.reload(options.clone())?;
        }
        Ok(())
    }

    /// Why the process fails, told one part's failure: without the log every part stops, and
    /// which of them is noticed first is chance.
    pub(super) fn reason(&self, failure: anyhow::Error) -> anyhow::Error {
        let stopped = self.embedded.as_ref().and_then(|log| log.stopped());
        stopped.map_or(failure, |reason| watch::log_stopped(&reason))
    }

    /// Stops what runs, in order, each part with what is left of the deadline. Goes on after an
    /// error, and returns the first.
    pub(super) async fn stop(self, deadline: Duration) -> Result<()> {
        let ends_at = Instant::now() + deadline;
        let left = || ends_at.saturating_duration_since(Instant::now());
        let Self {
            role: _,
            folder,
            background,
            engine,
            log,
            embedded,
            guarded,
            processor,
            rejected,
            rejected_written: _,
            archiver,
            ingest,
            taking,
            control,
        } = self;
        drop((embedded, taking));
        let mut first: Result<()> = Ok(());
        let mut note = |what: &'static str, ended: Result<()>| {
            if let Err(error) = ended {
                tracing::warn!(part = what, error = format!("{error:#}"), "not stopped cleanly");
                if first.is_ok() {
                    first = Err(error.context(format!("could not stop {what} cleanly")));
                }
            }
        };
        if let Some(ingest) = ingest {
            let drained = ingest.shutdown().await;
            if drained.abandoned > 0 {
                tracing::warn!(requests = drained.abandoned, "requests were not finished in time");
            }
        }
        let mut log_answers = true;
        if let Some(guarded) = guarded {
            log_answers = guarded.answers();
            note("the spool", guarded.close().await.map_err(Into::into));
        }
        control.cancel();
        if let Some(rejected) = rejected {
            note("the writer of rejected events", rejected.shutdown().await);
        }
        if let Some(processor) = processor {
            note("the processor", processor.shutdown().await.map_err(Into::into));
        }
        if let Some(archiver) = archiver {
            // Some time has to be left for closing the log and ClickHouse.
            let time = left().mul_f64(0.8);
            note("the archiver", archiver.shutdown(time).await.map_err(Into::into));
        }
        if let Some(log) = log {
            if log_answers {
                note("the event log", log.close().await.map_err(Into::into));
            } else {
                // What is still under way was refused, or is in the spool.
                tracing::warn!("Kafka does not answer; what it was sent is not waited for");
            }
        }
        if let Some(engine) = engine {
            engine.shutdown().await;
        }
        drop(background);
        note("the data folder", folder.retract());
        first
    }
}

/// A folder without keys has not been started before: it gets a school and its key.
async fn first_key(registrar: &Registrar) -> Result<Option<String>> {
    if !registrar.keys.list().is_empty() {
        return Ok(None);
    }
    let school_id = SchoolId::parse(FIRST_SCHOOL)?;
    let grant = Grant::new(school_id, &[Scope::EventsWrite]);
    let request = NewKey { grant, expires_at: None };
    let created = registrar.create_key(request).await.context("could not make the first key")?;
    Ok(Some(created.key))
}

async fn listen(address: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "another program has the port: choose one with --listen; port 0 takes a free one"
            }
            std::io::ErrorKind::PermissionDenied => {
                "ports below 1024 need a privilege: choose a higher one with --listen"
            }
            _ => "--listen takes an address of this machine and a port, such as 127.0.0.1:8080",
        };
        let what = format!("could not listen on {address} for events");
        anyhow::Error::new(error).context(Advice::new(what, hint))
    })
}
