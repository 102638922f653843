//! A small table that many processes share: a compacted topic of one partition.
//!
//! In: a value for a key, or its removal. Out: every key's latest value, in a follower's hands.
//! Always true: a change that [`KafkaTable::put`] returned is on all in-sync replicas; one partition
//! gives all changes one order, so all followers end with the same table; nothing is shown before the
//! topic was read to its end; while Kafka cannot be reached, what was shown stays, and
//! [`KafkaTable::trouble`] says so.
//! Not here: what keys and values mean. The calls block, and are not for threads of an async runtime.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use bytes::Bytes;
use chalkstream_schemas::LogOffset;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, ProducerContext, ThreadedProducer};

use self::follower::Follower;
use super::{KafkaOptions, Logging, admin};
use crate::Error;

mod follower;
#[cfg(test)]
mod tests;

/// Every key with its latest value.
pub type Rows = BTreeMap<Bytes, Bytes>;

/// How long a change may wait for its acknowledgement.
const PUT_WITHIN: Duration = Duration::from_secs(10);

/// A shared table; see the [module](self).
pub struct KafkaTable {
    name: String,
    options: Arc<KafkaOptions>,
    producer: ThreadedProducer<Acknowledged>,
    follower: Follower,
}

impl std::fmt::Debug for KafkaTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaTable").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Passes an acknowledgement on to the call that waits for it.
struct Acknowledged;

impl ClientContext for Acknowledged {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Logging.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Logging.error(error, reason);
    }
}

impl ProducerContext for Acknowledged {
    type DeliveryOpaque = Box<SyncSender<Result<i64, KafkaError>>>;

    fn delivery(&self, result: &DeliveryResult<'_>, caller: Self::DeliveryOpaque) {
        let outcome = match result {
            Ok(message) => Ok(message.offset()),
            Err((error, _)) => Err(error.clone()),
        };
        // A caller that gave up does not matter: the change is in the topic.
        drop(caller.send(outcome));
    }
}

impl KafkaTable {
    /// Creates the topic where it is missing, and follows it from its beginning.
    ///
    /// `show` gets the whole table once it has been read to its end, and after every change.
    pub async fn open(
        options: KafkaOptions,
        name: &str,
        show: impl Fn(&Rows) + Send + 'static,
    ) -> Result<Self, Error> {
        options.check()?;
        let options = Arc::new(options);
        let name = format!("{}{name}", options.prefix);
        admin::prepare_table(&options, &name).await?;
        let mut config = options.client();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "0")
            .set("message.timeout.ms", PUT_WITHIN.as_millis().to_string());
        let producer = options
            .with_properties(config)
            .create_with_context(Acknowledged)
            .map_err(options.error(&format!("make a producer for {name}")))?;
        let follower = Follower::start(Arc::clone(&options), name.clone(), show)?;
        Ok(Self { name, options, producer, follower })
    }

    /// Sets or removes a key's value, and waits until it is durable and shown here.
    pub fn put(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), Error> {
        let failed = || self.options.error(&format!("write to {}", self.name));
        let (caller, outcome) = sync_channel(1);
        let record = BaseRecord::with_opaque_to(&self.name, Box::new(caller)).partition(0).key(key);
        let record = match value {
            Some(value) => record.payload(value),
            None => record,
        };
        self.producer.send(record).map_err(|(error, _)| failed()(error))?;
        let timed_out = || KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut);
        let offset = outcome
            .recv_timeout(PUT_WITHIN * 2)
            .unwrap_or_else(|_silent| Err(timed_out()))
            .map_err(failed())?;
        let next = LogOffset::new(u64::try_from(offset).unwrap_or(0)).next();
        self.follower.wait_for(next, self.options.request_timeout)
    }

    /// Waits until the table has been read to its end once.
    pub fn wait_until_current(&self) -> Result<(), Error> {
        self.follower.wait_for(LogOffset::new(0), self.options.request_timeout)
    }

    /// For how long the topic has not been followed, and why; `None` while it is.
    pub fn trouble(&self) -> Option<(Duration, String)> {
        self.follower.trouble()
    }

    /// The topic's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}
