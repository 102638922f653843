//! Finding out about the cluster, and creating topics that are missing.
//!
//! Always true: a topic that exists is left as it is; a topic that was created is usable (every
//! partition has a leader) before anyone gets the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;

use super::{KafkaOptions, Logging};
use crate::{Error, Topic};

/// How long a new topic may take to get its leaders.
const LEADERS_WITHIN: Duration = Duration::from_secs(30);

/// What there is.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) cluster_id: String,
    pub(super) partitions: BTreeMap<Topic, u32>,
}

/// Creates missing topics and says what the cluster is.
pub(super) async fn prepare(options: &Arc<KafkaOptions>) -> Result<Cluster, Error> {
    let client = client(options)?;
    let metadata = metadata(options, &client).await?;
    let missing: Vec<Topic> = Topic::ALL
        .into_iter()
        .filter(|topic| partitions_of(&metadata, &options.topic(*topic)).is_none())
        .collect();
    if !missing.is_empty() {
        create(options, &client, &missing, metadata.brokers().len()).await?;
    }
    let deadline = Instant::now() + LEADERS_WITHIN;
    let partitions = loop {
        let metadata = self::metadata(options, &client).await?;
        let ready: BTreeMap<Topic, u32> = Topic::ALL
            .into_iter()
            .filter_map(|topic| Some((topic, partitions_of(&metadata, &options.topic(topic))?)))
            .collect();
        if ready.len() == Topic::ALL.len() {
            break ready;
        }
        if Instant::now() >= deadline {
            let code = RDKafkaErrorCode::LeaderNotAvailable;
            let error = options.error("find a leader for every partition of the log's topics");
            return Err(error(KafkaError::MetadataFetch(code)));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let (asking, timeout) = (Arc::clone(&client), options.request_timeout);
    let cluster_id = blocking(move || asking.inner().fetch_cluster_id(timeout)).await?;
    let Some(cluster_id) = cluster_id else {
        let code = RDKafkaErrorCode::OperationTimedOut;
        return Err(options.error("read the cluster's id")(KafkaError::MetadataFetch(code)));
    };
    for (topic, found) in &partitions {
        if *found != options.partitions {
            tracing::warn!(
                %topic, partitions = found, asked = options.partitions,
                "the topic keeps the number of partitions that it was created with"
            );
        }
    }
    Ok(Cluster { cluster_id, partitions })
}

fn client(options: &KafkaOptions) -> Result<Arc<AdminClient<Logging>>, Error> {
    options
        .with_properties(options.client())
        .create_with_context(Logging)
        .map(Arc::new)
        .map_err(options.error("make a client for the log"))
}

/// Creates the topic of a table where it is missing: one partition, compacted. One that exists must
/// be compacted, because Kafka would delete its rows after a while.
pub(super) async fn prepare_table(options: &Arc<KafkaOptions>, name: &str) -> Result<(), Error> {
    let client = client(options)?;
    let metadata = metadata(options, &client).await?;
    if partitions_of(&metadata, name).is_none() {
        let (replicas, in_sync) = replicas(options, metadata.brokers().len());
        let topic = NewTopic::new(name, 1, TopicReplication::Fixed(i32::from(replicas)))
            .set("min.insync.replicas", &in_sync)
            .set("cleanup.policy", "compact")
            .set("message.timestamp.type", "CreateTime");
        create_all(options, &client, &[topic]).await?;
    }
    let deadline = Instant::now() + LEADERS_WITHIN;
    while partitions_of(&self::metadata(options, &client).await?, name).is_none() {
        if Instant::now() >= deadline {
            let code = RDKafkaErrorCode::LeaderNotAvailable;
            let error = options.error(&format!("find a leader for {name}"));
            return Err(error(KafkaError::MetadataFetch(code)));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    check_compacted(options, &client, name).await
}

async fn check_compacted(
    options: &KafkaOptions,
    client: &AdminClient<Logging>,
    name: &str,
) -> Result<(), Error> {
    let waiting = AdminOptions::new().request_timeout(Some(options.request_timeout));
    let described = client.describe_configs(&[ResourceSpecifier::Topic(name)], &waiting).await;
    let described = described.map_err(options.error(&format!("read the settings of {name}")))?;
    for settings in described {
        match settings {
            Ok(settings) => {
                let policy =
                    settings.get("cleanup.policy").and_then(|entry| entry.value.as_deref());
                if policy.is_some_and(|policy| policy != "compact") {
                    return Err(Error::Option {
                        key: format!("the topic {name}"),
                        reason: "must have cleanup.policy=compact, or its rows would be deleted after a while; set it with kafka-configs".into(),
                    });
                }
            }
            // Who may not look can use the topic all the same.
            Err(error) => tracing::warn!(topic = name, %error, "could not check its settings"),
        }
    }
    Ok(())
}

async fn metadata(
    options: &Arc<KafkaOptions>,
    client: &Arc<AdminClient<Logging>>,
) -> Result<Metadata, Error> {
    let (client, timeout) = (Arc::clone(client), options.request_timeout);
    blocking(move || client.inner().fetch_metadata(None, timeout))
        .await?
        .map_err(options.error("read the cluster's metadata"))
}

/// The number of partitions of a topic that exists and whose every partition has a leader.
fn partitions_of(metadata: &Metadata, name: &str) -> Option<u32> {
    let topic = metadata.topics().iter().find(|topic| topic.name() == name)?;
    let ready = topic.error().is_none()
        && topic.partitions().iter().all(|partition| partition.leader() >= 0);
    let count = u32::try_from(topic.partitions().len()).ok()?;
    (ready && count > 0).then_some(count)
}

async fn create(
    options: &KafkaOptions,
    client: &AdminClient<Logging>,
    missing: &[Topic],
    brokers: usize,
) -> Result<(), Error> {
    let (replication, in_sync) = replicas(options, brokers);
    let names: Vec<_> = missing.iter().map(|topic| (*topic, options.topic(*topic))).collect();
    let retentions: Vec<_> =
        missing.iter().map(|topic| retention(*topic).as_millis().to_string()).collect();
    let topics: Vec<_> = names
        .iter()
        .zip(&retentions)
        .map(|((_, name), retention_ms)| {
            let partitions = i32::try_from(options.partitions).unwrap_or(i32::MAX);
            let replication = i32::from(replication);
            NewTopic::new(name, partitions, TopicReplication::Fixed(replication))
                .set("min.insync.replicas", &in_sync)
                .set("retention.ms", retention_ms)
                .set("cleanup.policy", "delete")
                .set("message.timestamp.type", "CreateTime")
        })
        .collect();
    create_all(options, client, &topics).await
}

/// How many replicas a new topic gets, and how many of them must acknowledge.
fn replicas(options: &KafkaOptions, brokers: usize) -> (u16, String) {
    let brokers = u16::try_from(brokers).unwrap_or(u16::MAX).max(1);
    let replicas = options.replication.unwrap_or(brokers.min(3)).max(1);
    let in_sync = options.min_insync_replicas.unwrap_or((replicas - 1).max(1));
    (replicas, in_sync.to_string())
}

async fn create_all(
    options: &KafkaOptions,
    client: &AdminClient<Logging>,
    topics: &[NewTopic<'_>],
) -> Result<(), Error> {
    let waiting = AdminOptions::new().request_timeout(Some(options.request_timeout));
    let created = client.create_topics(topics, &waiting).await;
    let results = created.map_err(options.error("create the log's topics"))?;
    for result in results {
        match result {
            // Another process was faster.
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, code)) => {
                let doing = format!("create the topic {name}");
                return Err(options.error(&doing)(KafkaError::AdminOp(code)));
            }
        }
    }
    Ok(())
}

/// How long a topic keeps its records.
const fn retention(topic: Topic) -> Duration {
    const DAY_SECONDS: u64 = 24 * 60 * 60;
    match topic {
        Topic::Events => Duration::from_secs(30 * DAY_SECONDS),
        Topic::Rejected => Duration::from_secs(14 * DAY_SECONDS),
    }
}

/// Runs something that blocks, off the threads that serve requests.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_panicked| Error::Internal { what: "a request to Kafka" })
}
