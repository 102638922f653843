//! Official clients, unchanged: the `clickhouse` crate and Python's `clickhouse-connect`.

use std::path::Path;
use std::process::Command;

use clickhouse::{Client, Compression, Row};
use serde::{Deserialize, Serialize};

use super::server::{AWKWARD, fixture};

#[derive(Clone, Debug, PartialEq, Row, Serialize, Deserialize)]
struct Sample {
    id: u64,
    text: String,
    note: Option<String>,
    list: Vec<String>,
}

fn samples() -> Vec<Sample> {
    let texts = AWKWARD.iter().map(|text| (*text).to_owned());
    let sample = |(id, text): (usize, String)| Sample {
        id: id as u64,
        note: (id % 2 == 0).then(|| text.clone()),
        list: vec![text.clone(), text.clone()],
        text,
    };
    texts.enumerate().map(sample).collect()
}

#[test]
fn the_clickhouse_crate_inserts_and_selects() {
    let Some(server) = fixture() else { return };
    let columns = "id UInt64, text String, note Nullable(String), list Array(String)";
    for (name, compression) in [("crate_plain", Compression::None), ("crate_lz4", Compression::Lz4)]
    {
        let table = server.table(name, columns);
        let client = Client::default()
            .with_url(&server.url)
            .with_user("admin")
            .with_password(&server.credentials.admin_password)
            .with_database("chalkstream")
            .with_compression(compression);
        server.run(async {
            let mut insert = client.insert::<Sample>(&table).await.unwrap();
            for sample in samples() {
                insert.write(&sample).await.unwrap();
            }
            insert.end().await.unwrap();
            let select =
                format!("SELECT ?fields FROM {table} WHERE id < {{most:UInt64}} ORDER BY id");
            let query = client.query(&select).param("most", 1000);
            assert_eq!(query.fetch_all::<Sample>().await.unwrap(), samples());
            let numbers = client.query("SELECT number FROM numbers(500000)");
            assert_eq!(numbers.fetch_all::<u64>().await.unwrap().len(), 500_000);
            let error = client.query("SELECT 1 FROM nowhere").fetch_all::<u8>().await.unwrap_err();
            assert!(error.to_string().contains("Code: 60."), "{error}");
            let late = "SELECT throwIf(number = 3000000, 'too far') FROM numbers(5000000)";
            let error = client.query(late).fetch_all::<u8>().await.unwrap_err();
            assert!(error.to_string().contains("too far"), "{error}");
        });
    }
    let reader = Client::default()
        .with_url(&server.url)
        .with_user("reader")
        .with_password(&server.credentials.reader_password);
    server.run(async {
        let count = reader.query("SELECT count() FROM samples WHERE id = ?").bind(7);
        count.fetch_one::<u64>().await.unwrap();
        let error = reader.query("SELECT secret FROM secrets_raw").fetch_all::<String>().await;
        assert!(error.unwrap_err().to_string().contains("Code: 497."));
    });
}

/// The rows of an insert: one, as many as fit a block of clients, one more, and many blocks.
const ROWS: [u64; 4] = [1, 65_536, 65_537, 1_000_000];

/// Each way to compress, each number of rows, counted after.
#[test]
fn the_clickhouse_crate_loses_no_row() {
    #[derive(Row, Serialize)]
    struct Numbered {
        id: u64,
        text: String,
    }
    let Some(server) = fixture() else { return };
    for (name, compression) in [("plain", Compression::None), ("lz4", Compression::Lz4)] {
        let client = Client::default()
            .with_url(&server.url)
            .with_user("admin")
            .with_password(&server.credentials.admin_password)
            .with_database("chalkstream")
            .with_compression(compression);
        for rows in ROWS {
            let table = server.table(&format!("crate_{name}_{rows}"), "id UInt64, text String");
            server.run(async {
                let mut insert = client.insert::<Numbered>(&table).await.unwrap();
                for id in 0..rows {
                    insert.write(&Numbered { id, text: format!("row {id}") }).await.unwrap();
                }
                insert.end().await.unwrap();
                let count = client.query(&format!("SELECT uniqExact(id) FROM {table}"));
                assert_eq!(count.fetch_one::<u64>().await.unwrap(), rows, "{table}");
                let all = client.query(&format!("SELECT id FROM {table}")).fetch_all::<u64>();
                let read = all.await.unwrap();
                assert_eq!(read.iter().sum::<u64>(), rows * (rows - 1) / 2, "{table}");
            });
            server.admin(&format!("DROP TABLE {table}"));
        }
    }
}

#[test]
fn clickhouse_connect_inserts_and_selects() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/python_client.py");
    run_client("python-env", &[], Some(&script));
}

#[test]
fn clickhouse_go_over_http_connects_and_loses_no_row() {
    run_client("clickhouse-clients", &["go"], None);
}

#[test]
fn the_client_for_javascript_loses_no_row() {
    run_client("clickhouse-clients", &["node"], None);
}

#[test]
fn the_driver_for_jdbc_loses_no_row() {
    run_client("clickhouse-clients", &["java"], None);
}

/// Has a script of `deploy/dev` make a client ready, and runs it: it says by itself what is wrong.
fn run_client(maker: &str, arguments: &[&str], script: Option<&Path>) {
    let Some(server) = fixture() else { return };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let maker = root.join("deploy/dev").join(maker);
    let made = Command::new(&maker).args(arguments).output().unwrap();
    if !made.status.success() {
        let reason = String::from_utf8_lossy(&made.stderr).into_owned();
        assert!(
            std::env::var_os("CHALKSTREAM_ALLOW_SKIP").is_some(),
            "{}: {reason}",
            maker.display()
        );
        println!("skipped: {reason}");
        return;
    }
    let words = String::from_utf8(made.stdout).unwrap();
    let mut words = words.lines();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .args(script)
        .env("CLICKHOUSE_PORT", server.url.rsplit(':').next().unwrap())
        .env("ADMIN_PASSWORD", &server.credentials.admin_password)
        .env("READER_PASSWORD", &server.credentials.reader_password)
        .env("ROWS", ROWS.map(|rows| rows.to_string()).join(","))
        .output()
        .unwrap();
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.ends_with("all good\n"), "{stdout}\n{stderr}");
}
