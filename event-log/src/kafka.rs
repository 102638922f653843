//! The log on Apache Kafka, for many processes and machines.
//!
//! In: the same calls as the embedded log gets. Out: the [`EventLog`] of a cluster.
//! Always true: `Ok` means that all in-sync replicas acknowledged (idempotent producer,
//! `acks=all`). A record without an acknowledgement in time is `Unacknowledged`: it may be in the
//! log, so whoever sends it again gets it at least once. Offsets rise; gaps are possible.
//! Not here: an index of seen events (see [`crate::seen`]), schemas, transactions.

mod admin;
mod producer;
mod reader;
mod subscription;
mod table;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use chalkstream_schemas::{LogOffset, PartitionId};
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use self::producer::Appender;
use self::reader::Readers;
use self::subscription::KafkaSubscription;
pub use self::table::{KafkaTable, Rows};
use crate::{
    AppendError, DEFAULT_PARTITIONS, Error, EventLog, LogBounds, LogIdentity, NewRecord,
    PARTITIONER, Retry, StoredRecord, Subscription, Topic,
};

/// How a Kafka log is reached, and what its topics are created with.
#[derive(Clone)]
pub struct KafkaOptions {
    /// Bootstrap addresses, as in `127.0.0.1:9092,127.0.0.1:9093`.
    pub brokers: String,
    /// Properties of librdkafka, over ours; for all of its clients.
    pub properties: BTreeMap<String, String>,
    /// Partitions of topics that are missing; those that exist keep their own.
    pub partitions: u32,
    /// Replicas of topics that are missing; `None` is 3, or as many as there are brokers.
    pub replication: Option<u16>,
    /// In-sync replicas that must acknowledge; `None` is one less than the replicas, at least 1.
    pub min_insync_replicas: Option<u16>,
    /// Set before the names of topics and groups, so that several logs share a cluster.
    pub prefix: String,
    /// Bytes that may wait for acknowledgement; above it appends are [`AppendError::Busy`].
    pub queue_bytes: usize,
    /// The largest record, key and payload together.
    pub record_max_bytes: usize,
    /// How long a record may wait for its acknowledgement.
    pub delivery_timeout: Duration,
    /// How long other requests may take.
    pub request_timeout: Duration,
}

impl KafkaOptions {
    /// The defaults, for a cluster.
    pub fn new(brokers: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            properties: BTreeMap::new(),
            partitions: DEFAULT_PARTITIONS,
            replication: None,
            min_insync_replicas: None,
            prefix: String::new(),
            queue_bytes: 64 << 20,
            record_max_bytes: 900_000,
            delivery_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(10),
        }
    }

    /// What every client is configured with.
    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "chalkstream")
            .set("socket.keepalive.enable", "true")
            .set("reconnect.backoff.max.ms", "2000");
        config
    }

    /// Sets what the user said, over everything that was set before.
    fn with_properties(&self, mut config: ClientConfig) -> ClientConfig {
        for (key, value) in &self.properties {
            config.set(key, value);
        }
        config
    }

    fn topic(&self, topic: Topic) -> String {
        format!("{}{}", self.prefix, topic.name())
    }

    fn error(&self, doing: &str) -> impl FnOnce(KafkaError) -> Error + use<> {
        let (doing, brokers) = (doing.to_owned(), self.brokers.clone());
        move |source| Error::Kafka { doing, brokers, source: Box::new(source) }
    }

    fn check(&self) -> Result<(), Error> {
        let wrong =
            |key: &str, reason: &str| Err(Error::Option { key: key.into(), reason: reason.into() });
        if self.brokers.trim().is_empty() {
            return wrong("log.brokers", "must name at least one broker, as in 127.0.0.1:9092");
        }
        if !(1..=4096).contains(&self.partitions) {
            return wrong("log.partitions", "must be 1 to 4096");
        }
        // Anything weaker would make `Ok` a lie.
        for (key, needed) in [("acks", "all"), ("enable.idempotence", "true")] {
            if self.properties.get(key).is_some_and(|value| value != needed && value != "-1") {
                return wrong(&format!("log.kafka.{key}"), &format!("must be {needed}"));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for KafkaOptions {
    /// Shows the names of properties only: their values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaOptions")
            .field("brokers", &self.brokers)
            .field("properties", &self.properties.keys().collect::<Vec<_>>())
            .field("partitions", &self.partitions)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// A log on a Kafka cluster; see the [module](self).
#[derive(Debug)]
pub struct KafkaLog {
    identity: LogIdentity,
    partitions: BTreeMap<Topic, u32>,
    appender: Appender,
    readers: Readers,
    options: Arc<KafkaOptions>,
    closed: AtomicBool,
}

impl KafkaLog {
    /// Reaches the cluster and creates the topics that are missing.
    pub async fn connect(options: KafkaOptions) -> Result<Arc<Self>, Error> {
        options.check()?;
        let options = Arc::new(options);
        let readers = Readers::new(Arc::clone(&options))?;
        let cluster = admin::prepare(&options).await?;
        let events = cluster.partitions.get(&Topic::Events).copied().unwrap_or(0);
        let identity = LogIdentity {
            cluster_id: cluster.cluster_id,
            partitions: events,
            partitioner: PARTITIONER,
        };
        let appender = Appender::new(&options)?;
        let partitions = cluster.partitions;
        let closed = AtomicBool::new(false);
        Ok(Arc::new(Self { identity, partitions, appender, readers, options, closed }))
    }

    /// The same log by a producer of its own, which tries until it is acknowledged, however long
    /// that takes: an order that no time-out can change. Closing it gives up what is under way.
    pub fn patient(&self) -> Result<Arc<Self>, Error> {
        let mut options = KafkaOptions::clone(&self.options);
        // librdkafka reads zero as for ever.
        options.delivery_timeout = Duration::ZERO;
        for own in ["message.timeout.ms", "delivery.timeout.ms"] {
            options.properties.remove(own);
        }
        let appender = Appender::new(&options)?;
        Ok(Arc::new(Self {
            identity: self.identity.clone(),
            partitions: self.partitions.clone(),
            appender,
            readers: self.readers.clone(),
            options: Arc::new(options),
            closed: AtomicBool::new(false),
        }))
    }

    /// Bytes that wait for acknowledgement.
    pub fn queued_bytes(&self) -> usize {
        self.appender.queued_bytes()
    }

    fn check(&self, topic: Topic, partition: PartitionId) -> Result<(), Error> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        let partitions = self.partitions(topic);
        if partition.get() >= partitions {
            return Err(Error::NoSuchPartition { topic, partition, partitions });
        }
        Ok(())
    }
}

#[async_trait]
impl EventLog for KafkaLog {
    fn identity(&self) -> &LogIdentity {
        &self.identity
    }

    fn partitions(&self, topic: Topic) -> u32 {
        self.partitions.get(&topic).copied().unwrap_or(0)
    }

    async fn append(
        &self,
        topic: Topic,
        records: Vec<NewRecord>,
    ) -> Vec<Result<LogOffset, AppendError>> {
        if self.closed.load(Ordering::Acquire) {
            let stopped = AppendError::Stopped { reason: "it is closed".into() };
            return vec![Err(stopped); records.len()];
        }
        self.appender.append(topic, self.partitions(topic), records).await
    }

    async fn bounds(&self, topic: Topic, partition: PartitionId) -> Result<LogBounds, Error> {
        self.check(topic, partition)?;
        self.readers.bounds(topic, partition).await
    }

    async fn read(
        &self,
        topic: Topic,
        partition: PartitionId,
        from: LogOffset,
        max_bytes: usize,
    ) -> Result<Vec<StoredRecord>, Error> {
        self.check(topic, partition)?;
        self.readers.read(topic, partition, from, max_bytes).await
    }

    async fn subscribe(&self, topic: Topic, group: &str) -> Result<Box<dyn Subscription>, Error> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        let readers = self.readers.clone();
        let options = Arc::clone(&self.options);
        Ok(Box::new(KafkaSubscription::new(options, readers, topic, group)?))
    }

    async fn close(&self) -> Result<(), Error> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.readers.close();
        self.appender.close(self.options.delivery_timeout).await
    }
}

/// Passes librdkafka's own log lines on, for every client.
struct Logging;

impl ClientContext for Logging {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            // Lost connections come as errors, too; what somebody must act on is an error of ours.
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => tracing::warn!(facility, message, "librdkafka"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
                tracing::debug!(facility, message, "librdkafka");
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            // A reader asked to be told where a partition ends.
            Some(RDKafkaErrorCode::PartitionEOF) => tracing::trace!(reason, "librdkafka"),
            Some(_) | None => tracing::warn!(%error, reason, "librdkafka"),
        }
    }
}

impl ConsumerContext for Logging {}

/// Whether trouble with Kafka passes by itself.
pub(crate) fn retry(error: &KafkaError) -> Retry {
    match error {
        // What the user configured does not get better by waiting.
        KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_) | KafkaError::Nul(_) => {
            Retry::Never
        }
        KafkaError::MessageConsumptionFatal(_) => Retry::Never,
        other => match other.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::Fatal
                | RDKafkaErrorCode::Fenced
                | RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::SaslAuthenticationFailed
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed
                | RDKafkaErrorCode::InvalidReplicationFactor
                | RDKafkaErrorCode::InvalidConfig
                | RDKafkaErrorCode::PolicyViolation
                | RDKafkaErrorCode::UnsupportedVersion
                | RDKafkaErrorCode::SSL,
            ) => Retry::Never,
            _ => Retry::Later,
        },
    }
}

/// What a person can do about trouble with Kafka.
pub(crate) fn hint(error: &KafkaError, brokers: &str) -> String {
    if let KafkaError::ClientConfig(_, _, key, _) = error {
        return format!("correct the property `{key}` under [log.kafka]");
    }
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::Authentication
            | RDKafkaErrorCode::SaslAuthenticationFailed
            | RDKafkaErrorCode::SSL,
        ) => "check the credentials and certificates under [log.kafka]".into(),
        Some(
            RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed,
        ) => "give this user the right to create, read and write the topics `chalkstream.*`".into(),
        Some(RDKafkaErrorCode::InvalidReplicationFactor) => {
            "the cluster has fewer brokers than `log.replication` asks for; lower it".into()
        }
        _ => format!("check that Kafka runs and answers at {brokers} (`log.brokers`)"),
    }
}
