//! Many at a time, and how long one takes.

use std::time::Instant;

use bytes::Bytes;

use super::server::{Fixture, User, fixture};

fn rows(from: u64, count: u64) -> Bytes {
    let mut out = Vec::new();
    for id in from..from + count {
        out.extend(id.to_le_bytes());
        let text = format!("row {id} \n\n \0 🧮");
        out.push(u8::try_from(text.len()).unwrap());
        out.extend(text.as_bytes());
    }
    out.into()
}

#[test]
fn eight_writers_and_eight_readers_at_once_lose_nothing() {
    let Some(server) = fixture() else { return };
    let table = server.table("parallel_rows", "id UInt64, text String");
    let table = table.as_str();
    server.run(async {
        let write = |writer: u64| async move {
            for batch in 0..10 {
                let rows = rows((writer * 10 + batch) * 500, 500);
                server.database.insert(table, &["id", "text"], rows).await.unwrap();
            }
        };
        let read = || async move {
            for _ in 0..20 {
                let sql =
                    format!("SELECT count() % 500 AS c, uniqExact(id) = count() AS u FROM {table}");
                let rows = server.database.query_json(&sql).await.unwrap();
                assert_eq!(
                    (&rows[0]["c"], &rows[0]["u"]),
                    (&0.into(), &1.into()),
                    "a batch was seen in part"
                );
                let request =
                    server.post(User::Reader, &[]).body("SELECT count() >= 0 FROM samples");
                assert_eq!(request.send().await.unwrap().text().await.unwrap(), "1\n");
            }
        };
        let writers = futures::future::join_all((0..8).map(write));
        let readers = futures::future::join_all((0..8).map(|_| read()));
        futures::future::join(writers, readers).await;
    });
    assert_eq!(
        server.admin(&format!("SELECT count(), uniqExact(id) FROM {table}")),
        "40000\t40000\n"
    );
}

#[test]
fn one_insert_is_one_part() {
    let Some(server) = fixture() else { return };
    let table = server.table("one_part", "id UInt64, text String");
    let count = 1_500_000;
    server.run(server.database.insert(&table, &["id", "text"], rows(0, count))).unwrap();
    let parts = format!(
        "SELECT count(), sum(rows) FROM system.parts WHERE active AND database = 'chalkstream' AND table = '{table}'"
    );
    assert_eq!(server.admin(&parts), format!("1\t{count}\n"));
}

#[test]
fn an_outage_is_told_from_a_refused_row() {
    use chalkstream_sql::{Database, Retry};
    let Some(server) = fixture() else { return };
    let table = server.table("refused_rows", "id UInt64, text String");
    let refused =
        server.run(server.database.insert(&table, &["id", "text"], Bytes::from_static(b"\x01")));
    assert_eq!(refused.unwrap_err().retry(), Retry::Content);
    let missing = server.run(server.database.insert("nowhere", &["id"], rows(0, 1))).unwrap_err();
    assert_eq!(missing.retry(), Retry::Fatal);
    assert!(missing.hint().unwrap().contains("migrate"));
    let nobody = Database::new("http://127.0.0.1:9", "admin", "x", "chalkstream").unwrap();
    assert_eq!(server.run(nobody.execute("SELECT 1")).unwrap_err().retry(), Retry::Transient);
}

/// Times are printed, not judged: machines differ. `cargo test … -- --nocapture times` shows them.
#[test]
fn times_of_an_insert_and_of_a_small_query() {
    let Some(server) = fixture() else { return };
    let table = server.table("timed_rows", "id UInt64, text String");
    let table = table.as_str();
    let insert = |n: u64| async move {
        let rows = rows(n * 10_000, 10_000);
        let started = Instant::now();
        server.database.insert(table, &["id", "text"], rows).await.unwrap();
        started.elapsed()
    };
    let query = |_| async {
        let started = Instant::now();
        server.database.query_json("SELECT 1 AS one").await.unwrap();
        started.elapsed()
    };
    let read = |_| async {
        let started = Instant::now();
        let request = server.post(User::Reader, &[]).body("SELECT count() FROM samples");
        request.send().await.unwrap().text().await.unwrap();
        started.elapsed()
    };
    median(server, "insert of 10,000 rows", 20, insert);
    median(server, "SELECT 1 as admin", 100, query);
    median(server, "SELECT count() as reader", 100, read);
}

fn median<F: Future<Output = std::time::Duration>>(
    server: &Fixture,
    what: &str,
    count: u64,
    one: impl Fn(u64) -> F,
) {
    let mut times: Vec<_> = (0..count).map(|n| server.run(one(n))).collect();
    times.sort();
    println!("{what}: median {:?}, slowest {:?}", times[times.len() / 2], times[times.len() - 1]);
}
