//! On a real broker: what one process writes, all others show.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::*;
use crate::test_support::{Broker, kafka, unique_prefix};

const SOON: Duration = Duration::from_secs(60);

/// A table, and what it shows.
struct Shown {
    table: Arc<KafkaTable>,
    rows: Arc<Mutex<Option<Rows>>>,
    times: Arc<AtomicUsize>,
}

fn options(broker: &Broker, prefix: &str) -> KafkaOptions {
    let mut options = KafkaOptions::new(broker.bootstrap());
    options.prefix = prefix.to_owned();
    options
}

async fn open(broker: &Broker, prefix: &str) -> Shown {
    let rows = Arc::new(Mutex::new(None));
    let times = Arc::new(AtomicUsize::new(0));
    let (show, count) = (Arc::clone(&rows), Arc::clone(&times));
    let table = KafkaTable::open(options(broker, prefix), "rows", move |now| {
        *show.lock() = Some(now.clone());
        count.fetch_add(1, Ordering::SeqCst);
    });
    let table = Arc::new(table.await.unwrap());
    let shown = Shown { table, rows, times };
    shown.blocking(|table| table.wait_until_current().unwrap()).await;
    shown
}

impl Shown {
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&KafkaTable) -> T + Send + 'static,
    ) -> T {
        let table = Arc::clone(&self.table);
        tokio::task::spawn_blocking(move || work(&table)).await.unwrap()
    }

    async fn put(&self, key: &'static str, value: Option<&str>) {
        let value = value.map(str::to_owned);
        self.blocking(move |table| {
            table.put(key.as_bytes(), value.as_deref().map(str::as_bytes)).unwrap();
        })
        .await;
    }

    fn rows(&self) -> Vec<(String, String)> {
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let rows = self.rows.lock();
        rows.iter().flatten().map(|(key, value)| (text(key), text(value))).collect()
    }

    #[track_caller]
    fn check(&self, expected: &[(&str, &str)]) {
        let expected = expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        assert_eq!(self.rows(), expected.collect::<Vec<_>>());
    }

    async fn becomes(&self, expected: &[(&str, &str)]) {
        wait_for(&format!("{expected:?}"), || {
            self.rows().iter().map(|(k, v)| (k.as_str(), v.as_str())).eq(expected.iter().copied())
        })
        .await;
    }
}

async fn wait_for(what: &str, reached: impl Fn() -> bool) {
    let began = Instant::now();
    while !reached() {
        assert!(began.elapsed() < SOON, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn admin(broker: &Broker) -> AdminClient<DefaultClientContext> {
    options(broker, "").client().create().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_follower_shows_what_anyone_wrote() {
    let Some(broker) = kafka() else { return };
    let prefix = unique_prefix();
    let first = open(broker, &prefix).await;
    first.check(&[]);
    first.put("a", Some("1")).await;
    first.check(&[("a", "1")]);
    let second = open(broker, &prefix).await;
    second.check(&[("a", "1")]);
    second.put("b", Some("2")).await;
    second.put("a", Some("3")).await;
    first.becomes(&[("a", "3"), ("b", "2")]).await;
    first.put("b", None).await;
    first.put("never", None).await;
    first.check(&[("a", "3")]);
    second.becomes(&[("a", "3")]).await;
    open(broker, &prefix).await.check(&[("a", "3")]);
    assert!(first.table.trouble().is_none() && second.table.trouble().is_none());
    assert_eq!(first.table.name(), format!("{prefix}rows"));
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_at_the_same_time_end_with_the_same_table() {
    let Some(broker) = kafka() else { return };
    let prefix = unique_prefix();
    // The topic, too, is made by all of them at once.
    let (a, b, c) =
        tokio::join!(open(broker, &prefix), open(broker, &prefix), open(broker, &prefix));
    let write = async |shown: &Shown, own: &'static str| {
        for number in 0..20 {
            let value = format!("{own}{number}");
            shown.put("shared", Some(&value)).await;
            shown.put(own, Some(&value)).await;
        }
    };
    tokio::join!(write(&a, "x"), write(&b, "y"), write(&c, "z"));
    wait_for("the last of each", || {
        [&a, &b, &c].iter().all(|shown| {
            let rows = shown.rows();
            ["x19", "y19", "z19"]
                .iter()
                .all(|last| rows.iter().any(|(k, v)| k != "shared" && v == last))
        })
    })
    .await;
    // Which of the writers was the last to set it is chance; all see the same one.
    wait_for("one table", || a.rows() == b.rows() && b.rows() == c.rows()).await;
    assert_eq!(a.rows().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_kafka_has_compacted_gives_the_same_table() {
    let Some(broker) = kafka() else { return };
    let prefix = unique_prefix();
    let table = open(broker, &prefix).await;
    let topic = format!("{prefix}rows");
    let hasty = AlterConfig::new(ResourceSpecifier::Topic(&topic))
        .set("cleanup.policy", "compact")
        .set("segment.ms", "50")
        .set("min.cleanable.dirty.ratio", "0.0")
        .set("delete.retention.ms", "0");
    let done = admin(broker).alter_configs(&[hasty], &AdminOptions::new()).await.unwrap();
    assert!(done.iter().all(Result::is_ok), "{done:?}");
    let mut written = 0;
    for number in 0..30 {
        table.put("a", Some(&number.to_string())).await;
        table.put("gone", (number < 20).then_some("x")).await;
        written += 2;
    }
    // The cleaner leaves the newest segment alone; so it is the one of another key.
    table.put("z", Some("last")).await;
    written += 1;
    let kept = || {
        let consumer: BaseConsumer = options(broker, "")
            .client()
            .set("group.id", "chalkstream.reads")
            .set("enable.partition.eof", "true")
            .create()
            .unwrap();
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition_offset(&topic, 0, rdkafka::Offset::Beginning).unwrap();
        consumer.assign(&list).unwrap();
        let mut records = 0;
        loop {
            match consumer.poll(Duration::from_secs(5)) {
                Some(Ok(_)) => records += 1,
                Some(Err(KafkaError::PartitionEOF(_))) => return records,
                Some(Err(error)) => panic!("{error}"),
                None => {}
            }
        }
    };
    let began = Instant::now();
    while kept() > written / 2 {
        assert!(began.elapsed() < SOON * 2, "the broker did not compact");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    open(broker, &prefix).await.check(&[("a", "29"), ("z", "last")]);
    table.check(&[("a", "29"), ("z", "last")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_made_anew_is_another_table() {
    let Some(broker) = kafka() else { return };
    let prefix = unique_prefix();
    let shown = open(broker, &prefix).await;
    for value in ["1", "2", "3"] {
        shown.put("a", Some(value)).await;
    }
    let topic = shown.table.name().to_owned();
    admin(broker).delete_topics(&[&topic], &AdminOptions::new()).await.unwrap();
    wait_for("trouble", || shown.table.trouble().is_some()).await;
    shown.check(&[("a", "3")]);
    let other = open(broker, &prefix).await;
    other.put("b", Some("1")).await;
    shown.becomes(&[("b", "1")]).await;
    wait_for("no trouble", || shown.table.trouble().is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_whose_rows_would_be_deleted_is_refused() {
    let Some(broker) = kafka() else { return };
    let prefix = unique_prefix();
    let name = format!("{prefix}rows");
    let topic = NewTopic::new(&name, 1, TopicReplication::Fixed(1)).set("cleanup.policy", "delete");
    admin(broker).create_topics(&[topic], &AdminOptions::new()).await.unwrap();
    let error = KafkaTable::open(options(broker, &prefix), "rows", |_| {}).await.unwrap_err();
    assert!(error.to_string().contains("cleanup.policy=compact"), "{error}");
}

/// Sends a signal to the broker that the test started.
fn signal(broker: &Broker, signal: &str) {
    let status = std::process::Command::new("kill")
        .args([signal, &broker.pid().to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_kafka_the_table_stays_as_it_is_and_says_so() {
    if kafka().is_none() {
        return;
    }
    let broker = Broker::start().unwrap();
    let shown = open(&broker, "").await;
    shown.put("a", Some("1")).await;
    signal(&broker, "-STOP");
    wait_for("trouble", || shown.table.trouble().is_some()).await;
    let before = shown.times.load(Ordering::SeqCst);
    shown.check(&[("a", "1")]);
    signal(&broker, "-CONT");
    wait_for("no trouble", || shown.table.trouble().is_none()).await;
    shown.check(&[("a", "1")]);
    assert_eq!(shown.times.load(Ordering::SeqCst), before, "nothing had changed");
    shown.put("a", Some("2")).await;
    shown.check(&[("a", "2")]);
}
