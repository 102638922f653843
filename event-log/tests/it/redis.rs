//! The shared index on a real Redis server: two nodes, time-outs, a killed server, passwords, TLS.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chalkstream_event_log::breaker::BreakerState;
use chalkstream_event_log::conformance::PATIENCE;
use chalkstream_event_log::seen::{LocalIndex, RedisOptions, SharedIndex};
use chalkstream_event_log::test_support::RedisServer;
use chalkstream_event_log::{SeenIndex, SharedStatus};
use chalkstream_schemas::{ContentHash, EventIdentity};

fn entry(number: u32) -> (EventIdentity, ContentHash) {
    let hash = *blake3::hash(&number.to_be_bytes()).as_bytes();
    let (identity, content) = hash.split_first_chunk().unwrap();
    let content = ContentHash::from_bytes(*content.first_chunk().unwrap());
    (EventIdentity::from_bytes(*identity), content)
}

fn split(
    entries: &[(EventIdentity, ContentHash)],
) -> (Vec<EventIdentity>, Vec<Option<ContentHash>>) {
    entries.iter().map(|(identity, content)| (*identity, Some(*content))).unzip()
}

async fn redis(folder: &Path, arguments: &'static str) -> Option<RedisServer> {
    let folder = folder.join("redis");
    tokio::task::spawn_blocking(move || RedisServer::start_on(&folder, arguments)).await.unwrap()
}

fn node(folder: &Path, name: &str, options: &RedisOptions) -> Arc<SharedIndex> {
    let local = LocalIndex::open(folder.join(name)).unwrap();
    SharedIndex::open(local, options).unwrap()
}

fn shared(index: &SharedIndex) -> SharedStatus {
    index.status().shared.unwrap()
}

async fn until(index: &SharedIndex, state: BreakerState) {
    let began = Instant::now();
    while shared(index).state != state {
        assert!(began.elapsed() < PATIENCE, "waited for {state:?}: {:?}", shared(index));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_acknowledged_another_one_knows() {
    let folder = tempfile::tempdir().unwrap();
    let Some(server) = redis(folder.path(), "").await else { return };
    let options = RedisOptions::new(format!("redis://{}", server.address()));
    let (a, b) = (node(folder.path(), "a", &options), node(folder.path(), "b", &options));
    let entries: Vec<_> = (0..2_500).map(entry).collect();
    let (ids, contents) = split(&entries);
    assert!(b.lookup(&ids).await.unwrap().iter().all(Option::is_none));
    a.commit(&entries).await.unwrap();
    assert_eq!(b.lookup(&ids).await.unwrap(), contents);
    // The first content stays, whoever comes later.
    let other = (entries[7].0, ContentHash::from_bytes([9; 16]));
    b.commit(&[other]).await.unwrap();
    drop(a);
    let c = node(folder.path(), "c", &options);
    assert_eq!(c.lookup(&ids[7..8]).await.unwrap(), contents[7..8]);
    let elsewhere = RedisOptions { prefix: "other:".into(), ..options };
    let d = node(folder.path(), "d", &elsewhere);
    assert_eq!(d.lookup(&ids[..1]).await.unwrap(), [None], "a prefix keeps indexes apart");
    assert_eq!((shared(&c).errors, shared(&c).state), (0, BreakerState::Closed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_goes_with_the_horizon() {
    let folder = tempfile::tempdir().unwrap();
    let Some(server) = redis(folder.path(), "").await else { return };
    let options = RedisOptions {
        horizon: Duration::from_millis(400),
        ..RedisOptions::new(format!("redis://{}", server.address()))
    };
    let (a, b) = (node(folder.path(), "a", &options), node(folder.path(), "b", &options));
    a.commit(&[entry(1)]).await.unwrap();
    let began = Instant::now();
    while b.lookup(&[entry(1).0]).await.unwrap() != [None] {
        assert!(began.elapsed() < PATIENCE, "the entry stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(shared(&b).errors, 0);
}

/// Killed, and paused: nothing fails, the own index answers, and Redis is asked again by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trouble_with_redis_costs_no_event_and_mends_itself() {
    let folder = tempfile::tempdir().unwrap();
    let Some(server) = redis(folder.path(), "").await else { return };
    let options = RedisOptions::new(format!("redis://{}", server.address()));
    let (a, b) = (node(folder.path(), "a", &options), node(folder.path(), "b", &options));
    let entries: Vec<_> = (0..300).map(entry).collect();
    let (ids, contents) = split(&entries);
    a.commit(&entries[..100]).await.unwrap();
    assert_eq!(b.lookup(&ids[..100]).await.unwrap(), contents[..100]);

    server.signal("-STOP");
    a.commit(&entries[100..200]).await.unwrap();
    assert_eq!(a.lookup(&ids[..200]).await.unwrap(), contents[..200], "its own index answers");
    assert_eq!(a.lookup(&ids[200..]).await.unwrap(), vec![None; 100]);
    assert_eq!(shared(&a).state, BreakerState::Open);
    let errors = shared(&a).errors;
    for _ in 0..50 {
        assert_eq!(a.lookup(&ids[200..]).await.unwrap(), vec![None; 100]);
    }
    assert!(shared(&a).errors - errors <= 50, "it is not asked by each");
    assert!(shared(&a).looked_up_alone >= 5_100, "{:?}", shared(&a));
    server.signal("-CONT");
    until(&a, BreakerState::Closed).await;

    tokio::task::block_in_place(|| server.kill());
    a.commit(&entries[200..]).await.unwrap();
    assert_eq!(a.lookup(&ids).await.unwrap(), contents);
    // Nothing of the others is known now, and that is no error.
    assert_eq!(b.lookup(&ids[200..]).await.unwrap(), vec![None; 100]);
    until(&a, BreakerState::Open).await;
    assert!(shared(&a).committed_alone >= 100);
    let Some(server) = redis(folder.path(), "").await else { return };
    assert_eq!(format!("redis://{}", server.address()), options.url);
    until(&a, BreakerState::Closed).await;
    until(&b, BreakerState::Closed).await;
    // The server came back empty; the own index still knows.
    assert_eq!(a.lookup(&ids).await.unwrap(), contents);
    let (new, content) = entry(1_000);
    a.commit(&[(new, content)]).await.unwrap();
    assert_eq!(b.lookup(&[new]).await.unwrap(), [Some(content)], "shared again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_opens_and_is_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let Some(server) = redis(folder.path(), "--requirepass s3cret-word").await else { return };
    let with = |login: &str| RedisOptions::new(format!("redis://{login}{}", server.address()));
    let good = with(":s3cret-word@");
    let index = node(folder.path(), "good", &good);
    index.commit(&[entry(1)]).await.unwrap();
    assert_eq!((shared(&index).errors, shared(&index).committed_alone), (0, 0));
    assert!(!format!("{good:?} {index:?}").contains("s3cret"));
    let index = node(folder.path(), "bad", &with(":s3cret-wrong@"));
    assert_eq!(index.lookup(&[entry(1).0]).await.unwrap(), [None], "refused, but no failure");
    assert_eq!(shared(&index).errors, 1);
    let local = LocalIndex::open(folder.path().join("broken")).unwrap();
    let error = SharedIndex::open(local, &RedisOptions::new("no:s3cret@url")).unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(text.contains("ingest.dedup.redis_url") && !text.contains("s3cret"), "{text}");
}

/// Over TLS, by the certificates named; with others nothing is told and nothing fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_needs_the_right_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let signed = || rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let (ours, other) = (signed(), signed());
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (cert, key) =
        (file("cert", ours.cert.pem()), file("key", ours.signing_key.serialize_pem()));
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let arguments = format!(
        "--tls-port {port} --tls-auth-clients no --tls-cert-file {} --tls-key-file {}",
        cert.display(),
        key.display()
    );
    let redis_folder = folder.path().join("redis");
    let start = move || RedisServer::start_on(&redis_folder, &arguments);
    let Some(_server) = tokio::task::spawn_blocking(start).await.unwrap() else { return };
    let with = |ca_file| RedisOptions {
        ca_file: Some(ca_file),
        timeout: Duration::from_secs(5),
        ..RedisOptions::new(format!("rediss://127.0.0.1:{port}"))
    };
    let index = node(folder.path(), "right", &with(cert));
    index.commit(&[entry(1)]).await.unwrap();
    assert_eq!((shared(&index).errors, shared(&index).committed_alone), (0, 0));
    let index = node(folder.path(), "wrong", &with(file("other", other.cert.pem())));
    assert_eq!(index.lookup(&[entry(1).0]).await.unwrap(), [None]);
    assert_eq!((shared(&index).errors, shared(&index).looked_up_alone), (1, 1));
}
