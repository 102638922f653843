//! A server on a free port, its folder, and the faults that can be put around its log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use chalkstream_access::{Clock, Drained, KeyStore, NodeQuota, Scope, SystemClock};
use chalkstream_event_log::embedded::{EmbeddedLog, EmbeddedOptions};
use chalkstream_event_log::{
    AppendError, Error, EventLog, LogBounds, LogIdentity, NewRecord, SeenIndex, StoredRecord,
    Subscription, Topic,
};
use chalkstream_ingest::{Books, Ingest, IngestOptions, IngestParts, RunningIngest};
use chalkstream_schemas::{
    ContentHash, EventIdentity, LearningEvent, LogOffset, LogRecord, OutcomeSeries, PartitionId,
    RejectedEntry, RejectedRecord, SchoolId, Timestamp,
};
use serde_json::{Value, json};
use tokio::sync::watch;

/// Longer than anything here takes; a test that waits so long has failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A clock that moves only when told.
#[derive(Debug)]
pub(crate) struct StepClock(AtomicI64);

impl StepClock {
    pub(crate) fn step(&self, by: Duration) {
        let ms = i64::try_from(by.as_millis()).unwrap();
        self.0.fetch_add(ms, Ordering::SeqCst);
    }

    pub(crate) fn step_back(&self, by: Duration) {
        let ms = i64::try_from(by.as_millis()).unwrap();
        self.0.fetch_sub(ms, Ordering::SeqCst);
    }

    pub(crate) fn now_as_text(&self) -> String {
        self.now().to_string()
    }
}

impl Clock for StepClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_ms(self.0.load(Ordering::SeqCst))
    }
}

/// Which records of an append fail.
type Fails = Box<dyn Fn(Topic, usize) -> Option<AppendError> + Send + Sync>;

/// The real log and index, with faults in front of them.
pub(crate) struct FaultyLog {
    real: Arc<EmbeddedLog>,
    fails: parking_lot::Mutex<Option<Fails>>,
    lookups_fail: parking_lot::Mutex<bool>,
    /// Appends wait while it is closed.
    gate: watch::Sender<bool>,
    /// Appends that have reached the gate.
    arrived: watch::Sender<usize>,
}

impl std::fmt::Debug for FaultyLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultyLog").field("real", &self.real).finish_non_exhaustive()
    }
}

impl FaultyLog {
    /// The records for which `fails` has an error are not written.
    pub(crate) fn fail(
        &self,
        fails: impl Fn(Topic, usize) -> Option<AppendError> + Send + Sync + 'static,
    ) {
        *self.fails.lock() = Some(Box::new(fails));
    }

    pub(crate) fn heal(&self) {
        *self.fails.lock() = None;
        *self.lookups_fail.lock() = false;
    }

    pub(crate) fn fail_lookups(&self) {
        *self.lookups_fail.lock() = true;
    }

    pub(crate) fn close_gate(&self) {
        self.gate.send_replace(false);
    }

    pub(crate) fn open_gate(&self) {
        self.gate.send_replace(true);
    }

    /// Waits until so many appends have been asked for in all.
    pub(crate) async fn arrived(&self, appends: usize) {
        let mut arrived = self.arrived.subscribe();
        let reached = arrived.wait_for(|count| *count >= appends);
        tokio::time::timeout(LIMIT, reached).await.expect("no append arrived").unwrap();
    }
}

fn is_counts(record: &NewRecord) -> bool {
    matches!(RejectedEntry::decode(&record.payload), Ok(RejectedEntry::Outcomes(_)))
}

pub(crate) fn unacknowledged() -> AppendError {
    AppendError::Unacknowledged { reason: "injected by the test".into() }
}

#[async_trait]
impl EventLog for FaultyLog {
    fn identity(&self) -> &LogIdentity {
        self.real.identity()
    }

    fn partitions(&self, topic: Topic) -> u32 {
        self.real.partitions(topic)
    }

    async fn append(
        &self,
        topic: Topic,
        records: Vec<NewRecord>,
    ) -> Vec<Result<LogOffset, AppendError>> {
        // Counts of outcomes come by themselves, at times that no test can know.
        if !records.iter().all(is_counts) {
            self.arrived.send_modify(|count| *count += 1);
            self.gate.subscribe().wait_for(|open| *open).await.unwrap();
        }
        let failures = {
            let fails = self.fails.lock();
            (0..records.len())
                .map(|index| fails.as_ref().and_then(|fails| fails(topic, index)))
                .collect::<Vec<_>>()
        };
        let taken = records
            .into_iter()
            .zip(&failures)
            .filter(|(_, failure)| failure.is_none())
            .map(|(record, _)| record)
            .collect::<Vec<_>>();
        let mut results = self.real.append(topic, taken).await.into_iter();
        failures
            .into_iter()
            .map(|failure| failure.map_or_else(|| results.next().unwrap(), Err))
            .collect()
    }

    async fn bounds(&self, topic: Topic, partition: PartitionId) -> Result<LogBounds, Error> {
        self.real.bounds(topic, partition).await
    }

    async fn read(
        &self,
        topic: Topic,
        partition: PartitionId,
        from: LogOffset,
        max_bytes: usize,
    ) -> Result<Vec<StoredRecord>, Error> {
        self.real.read(topic, partition, from, max_bytes).await
    }

    async fn subscribe(&self, topic: Topic, group: &str) -> Result<Box<dyn Subscription>, Error> {
        self.real.subscribe(topic, group).await
    }

    async fn close(&self) -> Result<(), Error> {
        self.real.close().await
    }
}

#[async_trait]
impl SeenIndex for FaultyLog {
    async fn lookup(
        &self,
        identities: &[EventIdentity],
    ) -> Result<Vec<Option<ContentHash>>, Error> {
        if *self.lookups_fail.lock() {
            return Err(Error::Internal { what: "the index (injected by the test)" });
        }
        self.real.lookup(identities).await
    }

    async fn commit(&self, acknowledged: &[(EventIdentity, ContentHash)]) -> Result<(), Error> {
        self.real.commit(acknowledged).await
    }
}

/// A running server.
pub(crate) struct Server {
    pub(crate) log: Arc<FaultyLog>,
    pub(crate) clock: Arc<StepClock>,
    pub(crate) keys: KeyStore,
    /// A key with `events:write` of the school `lincoln`.
    pub(crate) key: String,
    pub(crate) client: reqwest::Client,
    pub(crate) ingest: Ingest,
    running: Option<RunningIngest>,
    _folder: tempfile::TempDir,
}

pub(crate) async fn server() -> Server {
    server_with(IngestOptions::default()).await
}

pub(crate) async fn server_with(options: IngestOptions) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let log_options = EmbeddedOptions::new(folder.path().join("log"));
    let real =
        tokio::task::spawn_blocking(|| EmbeddedLog::open(log_options).unwrap()).await.unwrap();
    let log = Arc::new(FaultyLog {
        real,
        fails: parking_lot::Mutex::new(None),
        lookups_fail: parking_lot::Mutex::new(false),
        gate: watch::Sender::new(true),
        arrived: watch::Sender::new(0),
    });
    let keys = KeyStore::open(folder.path().join("keys.toml")).unwrap();
    let clock = Arc::new(StepClock(AtomicI64::new(SystemClock.now().as_ms())));
    let (key, _info) = keys.create(&school("lincoln"), &[Scope::EventsWrite], clock.now()).unwrap();
    let parts = IngestParts {
        log: Arc::clone(&log) as Arc<dyn chalkstream_event_log::Intake>,
        seen: Arc::clone(&log) as Arc<dyn SeenIndex>,
        keys: keys.clone(),
        quota: Arc::new(NodeQuota::default()),
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        registry: Default::default(),
    };
    let options = IngestOptions { listen: "127.0.0.1:0".to_owned(), ..options };
    let ingest = Ingest::new(options, parts).unwrap();
    let running = ingest.bind().await.unwrap();
    let client = reqwest::Client::builder().timeout(LIMIT).build().unwrap();
    let key = key.reveal().to_owned();
    Server { log, clock, keys, key, client, ingest, running: Some(running), _folder: folder }
}

pub(crate) fn school(name: &str) -> SchoolId {
    SchoolId::parse(name).unwrap()
}

/// An answer as a client sees it.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<u64>,
    pub(crate) content_type: String,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
}

impl Reply {
    pub(crate) async fn of(response: reqwest::Response) -> Self {
        let headers = response.headers().clone();
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        let (retry_after, content_type) = (text("retry-after"), text("content-type"));
        Self {
            status: response.status().as_u16(),
            retry_after: retry_after.map(|seconds| seconds.parse().unwrap()),
            content_type: content_type.unwrap_or_default(),
            headers,
            body: serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default(),
        }
    }

    /// accepted, duplicate, rejected, refused
    pub(crate) fn tally(&self) -> [u64; 4] {
        ["accepted", "duplicate", "rejected", "refused"]
            .map(|fate| self.body[fate].as_u64().unwrap_or_else(|| panic!("no tally in {self:?}")))
    }

    #[track_caller]
    pub(crate) fn check(&self, status: u16, tally: [u64; 4]) -> &Self {
        assert_eq!((self.status, self.tally()), (status, tally), "{self:?}");
        assert_eq!(self.content_type, "application/json");
        assert_eq!(self.retry_after.is_some(), tally[3] > 0, "{self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn check_problem(&self, status: u16, slug: &str, detail: &str) -> &Self {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.content_type, "application/problem+json", "{self:?}");
        assert_eq!(self.body["type"], format!("urn:chalkstream:problem:{slug}"), "{self:?}");
        assert_eq!(self.body["status"], status);
        assert!(self.body["detail"].as_str().unwrap().contains(detail), "{self:?}");
        assert_eq!(self.retry_after.is_some(), [408, 429, 500, 503].contains(&status), "{self:?}");
        self
    }
}

impl Server {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    pub(crate) fn address(&self) -> std::net::SocketAddr {
        self.running.as_ref().unwrap().address()
    }

    /// A request with the server's key and no content type yet.
    pub(crate) fn post(&self, query: &str) -> reqwest::RequestBuilder {
        self.client.post(self.url(&format!("/v1/events{query}"))).bearer_auth(&self.key)
    }

    pub(crate) async fn send_to(&self, query: &str, body: &Value) -> Reply {
        Reply::of(self.post(query).json(body).send().await.unwrap()).await
    }

    pub(crate) async fn send(&self, body: &Value) -> Reply {
        self.send_to("", body).await
    }

    /// Another key.
    pub(crate) fn another_key(&self, school_name: &str, scope: Scope) -> String {
        let made = self.keys.create(&school(school_name), &[scope], self.clock.now());
        made.unwrap().0.reveal().to_owned()
    }

    pub(crate) async fn send_as(&self, key: &str, body: &Value) -> Reply {
        let request = self.client.post(self.url("/v1/events")).bearer_auth(key).json(body);
        Reply::of(request.send().await.unwrap()).await
    }

    pub(crate) async fn send_bytes(&self, headers: &[(&str, &str)], body: Vec<u8>) -> Reply {
        let mut request = self.post("").body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Reply::of(request.send().await.unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> reqwest::Response {
        self.client.get(self.url(path)).send().await.unwrap()
    }

    /// A valid event that happened now.
    pub(crate) fn event(&self, id: &str) -> Value {
        json!({
            "id": id,
            "type": "answer_submitted",
            "user_id": "ada",
            "occurred_at": self.clock.now().to_string(),
            "data": { "item_id": "q1", "correct": true },
        })
    }

    /// The server's time in milliseconds.
    pub(crate) fn clock_ms(&self) -> i64 {
        self.clock.now().as_ms()
    }

    /// Another key of the server's school.
    pub(crate) fn key_with(&self, scopes: &[Scope]) -> String {
        let (key, _info) = self.keys.create(&school("lincoln"), scopes, self.clock.now()).unwrap();
        key.reveal().to_owned()
    }

    pub(crate) fn revoke(&self, key: &str) {
        let key_id = self.keys.authenticate(key, self.clock.now()).unwrap().key_id.to_string();
        self.keys.revoke(&key_id, self.clock.now()).unwrap();
    }

    /// A valid event with a fresh UUID.
    pub(crate) fn fresh(&self) -> Value {
        self.event(&uuid::Uuid::new_v4().to_string())
    }

    async fn records(&self, topic: Topic) -> Vec<StoredRecord> {
        let mut records = Vec::new();
        for partition in (0..self.log.partitions(topic)).map(PartitionId::new) {
            let bounds = self.log.bounds(topic, partition).await.unwrap();
            let mut next = bounds.first;
            while next < bounds.end {
                let found = self.log.read(topic, partition, next, 1 << 20).await.unwrap();
                next = found.last().expect("a record before the end").offset.next();
                records.extend(found);
            }
        }
        records
    }

    /// Every event of the log.
    pub(crate) async fn events(&self) -> Vec<LearningEvent> {
        let records = self.records(Topic::Events).await;
        records
            .iter()
            .map(|record| match LogRecord::decode(&record.key, &record.payload).unwrap() {
                LogRecord::Event(event) => *event,
                LogRecord::Control(control) => panic!("{control:?}"),
            })
            .collect()
    }

    /// Everything of the rejected log.
    async fn rejected_log(&self) -> impl Iterator<Item = RejectedEntry> {
        let records = self.records(Topic::Rejected).await;
        records.into_iter().map(|record| RejectedEntry::decode(&record.payload).unwrap())
    }

    /// Every event of the rejected log.
    pub(crate) async fn rejected(&self) -> Vec<RejectedRecord> {
        let events = self.rejected_log().await.filter_map(|entry| match entry {
            RejectedEntry::Event(record) => Some(*record),
            RejectedEntry::Outcomes(_) => None,
        });
        events.collect()
    }

    /// What was counted, as the rejected log has it: of each series and instance the highest.
    pub(crate) async fn outcomes(&self) -> BTreeMap<OutcomeSeries, u64> {
        let mut highest = BTreeMap::new();
        for entry in self.rejected_log().await {
            let RejectedEntry::Outcomes(outcomes) = entry else { continue };
            for (series, events) in outcomes.counts {
                let count = highest.entry((outcomes.instance, series)).or_insert(0);
                *count = events.max(*count);
            }
        }
        let mut sums = BTreeMap::new();
        for ((_, series), events) in highest {
            *sums.entry(series).or_insert(0) += events;
        }
        sums
    }

    /// The value of a series of `/metrics`.
    pub(crate) async fn metric(&self, series: &str) -> u64 {
        let text = self.get("/metrics").await.text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
    }

    pub(crate) fn books(&self) -> Books {
        self.ingest.books()
    }

    /// Waits for the books to be as wanted.
    pub(crate) async fn books_become(&self, what: &str, wanted: impl Fn(&Books) -> bool) {
        let started = std::time::Instant::now();
        while !wanted(&self.books()) {
            assert!(started.elapsed() < LIMIT, "waited for {what}: {:?}", self.books());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn shutdown(&mut self) -> Drained {
        self.running.take().unwrap().shutdown().await
    }

    /// What must hold at the end of every test.
    pub(crate) async fn check_conservation(&self) {
        self.books_become("no event in flight", |books| books.in_flight == 0).await;
        let books = self.books();
        assert!(books.balanced(), "{books:?}");
        assert_eq!(books.undecided, 0, "{books:?}");
        let stored = self.events().await.len() as u64;
        assert_eq!(stored, books.accepted, "{books:?}");
        let rejected = self.rejected().await.len() as u64;
        assert_eq!(rejected, books.rejected, "{books:?}");
        if self.running.is_some() {
            let panics = "chalkstream_ingest_internal_errors_total{kind=\"panic\"}";
            assert_eq!(self.metric(panics).await, 0);
            assert_eq!(self.metric("chalkstream_ingest_reserved_ids").await, 0);
            assert_eq!(self.metric("chalkstream_ingest_in_flight_bytes").await, 0);
        }
    }
}
