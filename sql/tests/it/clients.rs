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

#[test]
fn clickhouse_connect_inserts_and_selects() {
    let Some(server) = fixture() else { return };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let made = Command::new(root.join("deploy/dev/python-env")).output().unwrap();
    if !made.status.success() {
        let reason = String::from_utf8_lossy(&made.stderr).into_owned();
        assert!(
            std::env::var_os("CHALKSTREAM_ALLOW_SKIP").is_some(),
            "deploy/dev/python-env: {reason}"
        );
        println!("skipped: {reason}");
        return;
    }
    let python = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    let port = server.url.rsplit(':').next().unwrap();
    let output = Command::new(python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/python_client.py"))
        .env("CLICKHOUSE_PORT", port)
        .env("ADMIN_PASSWORD", &server.credentials.admin_password)
        .env("READER_PASSWORD", &server.credentials.reader_password)
        .output()
        .unwrap();
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.ends_with("all good\n"), "{stdout}\n{stderr}");
}
