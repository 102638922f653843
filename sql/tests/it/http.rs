//! The HTTP interface, request by request, as curl would use it.

use std::io::{Read as _, Write as _};

use reqwest::StatusCode;

use super::server::{AWKWARD, Fixture, User, fixture, header, with};

#[test]
fn health_checks_answer_without_a_user() {
    let Some(server) = fixture() else { return };
    server.run(async {
        for path in ["/", "/ping", "/replicas_status"] {
            let url = format!("{}{path}", server.url);
            assert_eq!(reqwest::get(url).await.unwrap().text().await.unwrap(), "Ok.\n");
        }
        let missing = reqwest::get(format!("{}/nothing", server.url)).await.unwrap();
        assert_eq!(missing.status(), StatusCode::NOT_FOUND);
    });
}

#[test]
fn a_query_comes_by_get_or_post_in_url_or_body() {
    let Some(server) = fixture() else { return };
    server.run(async {
        let client = reqwest::Client::new();
        let url = format!("{}/?query=SELECT+1%2B1", server.url);
        assert_eq!(client.get(&url).send().await.unwrap().text().await.unwrap(), "2\n");
        assert_eq!(client.post(&url).send().await.unwrap().text().await.unwrap(), "2\n");
        let split = client.post(format!("{}/?query=SELECT", server.url)).body("3");
        assert_eq!(split.send().await.unwrap().text().await.unwrap(), "3\n");
    });
    assert_eq!(server.ask(User::Nobody, "SELECT 4;", &[]).1, "4\n");
    assert_eq!(server.ask(User::Nobody, "SELECT 5 FORMAT JSONEachRow", &[]).1, "{\"5\":5}\n");
    let csv = [("default_format", "CSV")];
    assert_eq!(server.ask(User::Nobody, "SELECT 'a'", &csv).1, "\"a\"\n");
    let json = [
        ("default_format", "JSONCompactEachRow"),
        ("output_format_json_quote_64bit_integers", "1"),
    ];
    assert_eq!(server.ask(User::Nobody, "SELECT toUInt64(1)", &json).1, "[\"1\"]\n");
}

#[test]
fn headers_tell_format_zone_query_id_and_summary() {
    let Some(server) = fixture() else { return };
    server.run(async {
        let parameters = [("query_id", "my-id"), ("default_format", "JSON")];
        let request = server.post(User::Reader, &parameters).body("SELECT number FROM numbers(3)");
        let response = request.send().await.unwrap();
        assert_eq!(header(&response, "x-clickhouse-query-id"), "my-id");
        assert_eq!(header(&response, "x-clickhouse-format"), "JSON");
        assert!(!header(&response, "x-clickhouse-timezone").is_empty());
        assert!(header(&response, "content-type").starts_with("application/json"));
        assert!(header(&response, "x-clickhouse-summary").contains("\"result_rows\":\"3\""));
        let json: serde_json::Value = response.json().await.unwrap();
        assert_eq!(json["rows"], 3);
    });
}

#[test]
fn parameters_are_bound_by_clickhouse() {
    let Some(server) = fixture() else { return };
    for user in [User::Reader, User::Admin] {
        let parameters = [("param_a", "7"), ("param_b", "it's ; \\n`\\0`"), ("param_t", "samples")];
        let sql =
            "SELECT {a:UInt8} + 1, length({b:String}), (SELECT count() >= 0 FROM {t:Identifier})";
        let (status, text) = server.ask(user, sql, &parameters);
        assert_eq!((status, text.as_str()), (StatusCode::OK, "8\t11\t1\n"));
        let (status, text) = server.ask(user, "SELECT {missing:UInt8}", &[]);
        assert!(status.is_client_error() && text.contains("Code: 456"), "{status} {text}");
    }
}

#[test]
fn errors_carry_clickhouses_codes() {
    let Some(server) = fixture() else { return };
    let check = |user, sql: &str, status: u16, code: &str| {
        server.run(async {
            let response = server.post(user, &[]).body(sql.to_owned()).send().await.unwrap();
            assert_eq!(header(&response, "x-clickhouse-exception-code"), code, "{sql}");
            assert_eq!(response.status().as_u16(), status, "{sql}");
            let text = response.text().await.unwrap();
            assert!(text.starts_with(&format!("Code: {code}. DB::Exception: ")), "{text}");
            assert!(text.contains("(version ") && text.ends_with(")\n"), "{text}");
        });
    };
    for user in [User::Admin, User::Reader] {
        check(user, "SELECT * FROM nowhere", 404, "60");
        check(user, "SELECT nothing FROM samples", 404, "47");
        check(user, "SELECT nofunction(1)", 404, "46");
        check(user, "SELEC 1", 400, "62");
        check(user, "SELECT 1 FORMAT Nope", 404, "73");
        check(user, "SELECT 1; SELECT 2", 400, "62");
        check(user, "", 400, "62");
    }
    check(User::Admin, "SELECT * FROM nowhere.table", 404, "81");
    check(User::Admin, "exit", 400, "62");
    check(User::Admin, "?? hello", 400, "62");
    check(User::Admin, "CREATE TABLE x (a Nope) ENGINE = Memory", 404, "50");
}

#[test]
fn wrong_users_and_passwords_are_refused() {
    let Some(server) = fixture() else { return };
    let attempt = |user: &str, password: &str| {
        server.run(async {
            let request = reqwest::Client::new().post(&server.url).body("SELECT 1");
            let header =
                request.header("X-ClickHouse-User", user).header("X-ClickHouse-Key", password);
            header.send().await.unwrap().status().as_u16()
        })
    };
    assert_eq!(attempt("admin", "wrong"), 403);
    assert_eq!(attempt("admin", ""), 403);
    assert_eq!(attempt("reader", "wrong"), 403);
    assert_eq!(attempt("root", ""), 403);
    assert_eq!(attempt("default", ""), 200);
    assert_eq!(attempt("admin", &server.credentials.admin_password), 200);
    let parameters = [("user", "admin"), ("password", server.credentials.admin_password.as_str())];
    assert_eq!(server.ask(User::Nobody, "SELECT count() FROM secrets_raw", &parameters).1, "1\n");
    // A page in a browser, by a name that resolves to this machine.
    server.run(async {
        let request = reqwest::Client::new()
            .post(&server.url)
            .header("Host", "evil.example")
            .body("SELECT 1");
        let response = request.send().await.unwrap();
        assert_eq!(response.status().as_u16(), 401);
        assert_eq!(header(&response, "x-clickhouse-exception-code"), "194");
        assert!(header(&response, "www-authenticate").starts_with("Basic"));
    });
}

/// Inserts the awkward strings in a format and reads them back.
#[track_caller]
fn check_insert(server: &Fixture, format: &str, body: Vec<u8>, in_body: bool) {
    let name = format!("insert_{}_{in_body}", format.to_lowercase());
    let table = server.table(&name, "a UInt64, b String");
    let statement = format!("INSERT INTO {table} (a, b) FORMAT {format}");
    server.run(async {
        let response = if in_body {
            let whole = [statement.as_bytes(), b"\n", &body].concat();
            server.post(User::Admin, &[]).body(whole).send().await.unwrap()
        } else {
            server.post(User::Admin, &[("query", &statement)]).body(body).send().await.unwrap()
        };
        let summary = header(&response, "x-clickhouse-summary");
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert_eq!(status, StatusCode::OK, "{format}: {text}");
        assert!(summary.contains(&format!("\"written_rows\":\"{}\"", AWKWARD.len())), "{summary}");
    });
    check_stored(server, &table);
}

#[track_caller]
fn check_stored(server: &Fixture, table: &str) {
    let rows = server
        .run(server.database.query_json(&format!("SELECT a, b FROM {table} ORDER BY a")))
        .unwrap();
    let stored: Vec<&str> = rows.iter().map(|row| row["b"].as_str().unwrap()).collect();
    assert_eq!(stored, AWKWARD);
}

fn var_uint(mut value: usize, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap());
}

fn row_binary() -> Vec<u8> {
    let mut out = Vec::new();
    for (index, text) in AWKWARD.iter().enumerate() {
        out.extend((index as u64).to_le_bytes());
        var_uint(text.len(), &mut out);
        out.extend(text.as_bytes());
    }
    out
}

fn names_and_types() -> Vec<u8> {
    let mut out = vec![2];
    for text in ["a", "b", "UInt64", "String"] {
        var_uint(text.len(), &mut out);
        out.extend(text.as_bytes());
    }
    out.extend(row_binary());
    out
}

fn native() -> Vec<u8> {
    let mut out = vec![2];
    var_uint(AWKWARD.len(), &mut out);
    for text in ["a", "UInt64"] {
        var_uint(text.len(), &mut out);
        out.extend(text.as_bytes());
    }
    (0..AWKWARD.len() as u64).for_each(|index| out.extend(index.to_le_bytes()));
    for text in ["b", "String"] {
        var_uint(text.len(), &mut out);
        out.extend(text.as_bytes());
    }
    for text in AWKWARD {
        var_uint(text.len(), &mut out);
        out.extend(text.as_bytes());
    }
    out
}

fn lines(row: impl Fn(usize, &str) -> String) -> Vec<u8> {
    AWKWARD
        .iter()
        .enumerate()
        .map(|(index, text)| row(index, text))
        .collect::<String>()
        .into_bytes()
}

#[test]
fn inserts_take_any_bytes_in_every_format() {
    let Some(server) = fixture() else { return };
    let json = lines(|index, text| format!("{}\n", serde_json::json!({"a": index, "b": text})));
    let csv = lines(|index, text| format!("{index},\"{}\"\n", text.replace('"', "\"\"")));
    let escaped = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
    let values = lines(|index, text| format!("({index}, '{}'),\n\n", escaped(text)));
    for in_body in [false, true] {
        check_insert(server, "RowBinary", row_binary(), in_body);
        check_insert(server, "RowBinaryWithNamesAndTypes", names_and_types(), in_body);
        check_insert(server, "Native", native(), in_body);
        check_insert(server, "JSONEachRow", json.clone(), in_body);
        check_insert(server, "CSV", csv.clone(), in_body);
        check_insert(server, "Values", values.clone(), in_body);
    }
    let spool = format!("chalkstream-insert-{}-", std::process::id());
    let folder = std::fs::read_dir("/dev/shm")
        .unwrap()
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(&spool));
    // Other tests insert at the same time: what counts is that none of these stays.
    let bodies = || {
        let names = std::fs::read_dir(folder.as_ref().unwrap().path()).unwrap().flatten();
        names.map(|entry| entry.file_name()).collect::<std::collections::HashSet<_>>()
    };
    let begun = bodies();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while bodies().intersection(&begun).next().is_some() {
        assert!(std::time::Instant::now() < end, "spooled bodies were not removed: {begun:?}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn an_empty_insert_is_fine_and_a_broken_one_stores_nothing() {
    let Some(server) = fixture() else { return };
    let table = server.table("broken_inserts", "a UInt64, b String");
    let insert = |format: &str, body: &[u8]| {
        let query = format!("INSERT INTO {table} FORMAT {format}");
        server.run(async {
            let request = server.post(User::Admin, &[("query", &query)]).body(body.to_vec());
            let response = request.send().await.unwrap();
            (response.status().as_u16(), response.text().await.unwrap())
        })
    };
    assert_eq!(insert("RowBinary", b""), (200, String::new()));
    assert_eq!(insert("RowBinary", b"\x01\x00\x00").0, 500);
    let cut = row_binary();
    let (status, text) = insert("RowBinary", &cut[..cut.len() - 1]);
    assert!(text.starts_with("Code: 33. "), "{status} {text}");
    let (status, text) = insert("CSV", b"1,a\nx,b\n");
    assert!(status == 400 && text.starts_with("Code: 27. "), "{status} {text}");
    assert_eq!(server.admin(&format!("SELECT count() FROM {table}")), "0\n");
}

#[test]
fn bodies_come_compressed_in_every_way() {
    let Some(server) = fixture() else { return };
    let plain = row_binary();
    let gzip = || {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&plain).unwrap();
        encoder.finish().unwrap()
    };
    let deflate = || {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&plain).unwrap();
        encoder.finish().unwrap()
    };
    let lz4 = || {
        let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
        encoder.write_all(&plain).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = zstd::bulk::compress(&plain, 1).unwrap();
    for (encoding, body) in
        [("gzip", gzip()), ("deflate", deflate()), ("lz4", lz4()), ("zstd", zstd)]
    {
        let table = server.table(&format!("compressed_{encoding}"), "a UInt64, b String");
        let query = format!("INSERT INTO {table} FORMAT RowBinary");
        server.run(async {
            let request = server.post(User::Admin, &[("query", &query)]);
            let response =
                request.header("Content-Encoding", encoding).body(body).send().await.unwrap();
            let (status, text) = (response.status(), response.text().await.unwrap());
            assert_eq!(status, StatusCode::OK, "{encoding}: {text}");
        });
        check_stored(server, &table);
    }
}

/// clickhouse-connect sends a frame a block of rows; what is cut off must not pass for the whole.
#[test]
fn every_frame_of_a_body_is_stored_and_a_part_of_one_is_refused() {
    let Some(server) = fixture() else { return };
    let rows = |from: u64| (from..from + 1000).flat_map(u64::to_le_bytes).collect::<Vec<u8>>();
    let gzip = |data: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    };
    let lz4 = |data: &[u8]| {
        let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = |data: &[u8]| zstd::bulk::compress(data, 1).unwrap();
    for (encoding, compress) in
        [("gzip", &gzip as &dyn Fn(&[u8]) -> Vec<u8>), ("lz4", &lz4), ("zstd", &zstd)]
    {
        let table = server.table(&format!("frames_{encoding}"), "a UInt64");
        let query = format!("INSERT INTO {table} FORMAT RowBinary");
        let send = |body: Vec<u8>| {
            server.run(async {
                let request = server.post(User::Admin, &[("query", &query)]);
                let request = request.header("Content-Encoding", encoding).body(body);
                let response = request.send().await.unwrap();
                header(&response, "x-clickhouse-exception-code")
            })
        };
        let frames: Vec<u8> = (0..5).flat_map(|n| compress(&rows(n * 1000))).collect();
        assert_eq!(send(frames.clone()), "", "{encoding}");
        let stored = format!("SELECT count(), uniqExact(a) FROM {table}");
        assert_eq!(server.admin(&stored), "5000\t5000\n", "{encoding}");
        for broken in [&frames[..frames.len() - 1], &[&frames[..], b"rest"].concat()] {
            assert_eq!(send(broken.to_vec()), "271", "{encoding}");
        }
        assert_eq!(server.admin(&stored), "5000\t5000\n", "{encoding}");
    }
}

#[test]
fn answers_are_compressed_as_accepted() {
    let Some(server) = fixture() else { return };
    let sql = "SELECT number, 'some text' FROM numbers(300000)";
    let plain = server.ask(User::Reader, sql, &[]).1.into_bytes();
    assert_eq!(plain.split(|byte| *byte == b'\n').count(), 300_001);
    for encoding in ["gzip", "deflate", "zstd", "lz4"] {
        let body = server.run(async {
            let request = server.post(User::Reader, &[("enable_http_compression", "1")]).body(sql);
            let response = request.header("Accept-Encoding", encoding).send().await.unwrap();
            assert_eq!(header(&response, "content-encoding"), encoding);
            response.bytes().await.unwrap()
        });
        let mut decoded = Vec::new();
        let mut reader: Box<dyn std::io::Read> = match encoding {
            "gzip" => Box::new(flate2::read::GzDecoder::new(&body[..])),
            "deflate" => Box::new(flate2::read::ZlibDecoder::new(&body[..])),
            "zstd" => Box::new(zstd::stream::read::Decoder::new(&body[..]).unwrap()),
            _ => Box::new(lz4_flex::frame::FrameDecoder::new(&body[..])),
        };
        reader.read_to_end(&mut decoded).unwrap();
        assert!(decoded == plain && body.len() < plain.len(), "{encoding}");
    }
    let identity = server.run(async {
        let request =
            server.post(User::Reader, &[("enable_http_compression", "0")]).body("SELECT 1");
        let response = request.header("Accept-Encoding", "gzip").send().await.unwrap();
        response.text().await.unwrap()
    });
    assert_eq!(identity, "1\n");
}

#[test]
fn clickhouses_own_framing_goes_both_ways() {
    let Some(server) = fixture() else { return };
    let table = server.table("framed", "a UInt64, b String");
    let framed = server.run(async {
        let parameters = [("compress", "1")];
        let sql = format!("SELECT * FROM {table} UNION ALL SELECT number, toString(number) FROM numbers(300000) FORMAT RowBinary");
        server.post(User::Admin, &parameters).body(sql).send().await.unwrap().bytes().await.unwrap()
    });
    let response = server.run(async {
        let query = format!("INSERT INTO {table} FORMAT RowBinary");
        let parameters = [("decompress", "1"), ("query", &query)];
        server.post(User::Admin, &parameters).body(framed.clone()).send().await.unwrap().status()
    });
    assert_eq!(response, StatusCode::OK);
    assert_eq!(
        server.admin(&format!("SELECT count(), sum(a) FROM {table}")),
        "300000\t44999850000\n"
    );
    let damaged = server.run(async {
        let mut body = framed.to_vec();
        body[100] ^= 1;
        let query = format!("INSERT INTO {table} FORMAT RowBinary");
        let parameters = [("decompress", "1"), ("query", &query)];
        let response = server.post(User::Admin, &parameters).body(body).send().await.unwrap();
        header(&response, "x-clickhouse-exception-code")
    });
    assert_eq!(damaged, "271");
}

#[test]
fn a_large_result_streams_and_a_late_error_is_seen() {
    let Some(server) = fixture() else { return };
    let rows = server.run(async {
        let sql = "SELECT number FROM numbers(20000000) FORMAT RowBinary";
        let mut response = server.post(User::Reader, &[]).body(sql).send().await.unwrap();
        let (mut bytes, mut chunks) = (0, 0);
        while let Some(chunk) = response.chunk().await.unwrap() {
            bytes += chunk.len();
            chunks += 1;
        }
        assert!(chunks > 10, "the result came in {chunks} pieces");
        bytes / 8
    });
    assert_eq!(rows, 20_000_000);
    server.run(async {
        let sql = "SELECT throwIf(number = 5000000, 'too far') FROM numbers(10000000)";
        let mut response = server.post(User::Reader, &[]).body(sql).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let tag = header(&response, "x-clickhouse-exception-tag");
        let mut text = Vec::new();
        let broken = loop {
            match response.chunk().await {
                Ok(Some(chunk)) => text.extend_from_slice(&chunk),
                Ok(None) => break false,
                Err(_broken) => break true,
            }
        };
        assert!(broken, "the answer looked whole");
        let text = String::from_utf8_lossy(&text[text.len() - 400..]).into_owned();
        assert!(
            text.contains("__exception__") && text.contains(&tag) && text.contains("too far"),
            "{text}"
        );
    });
    let (status, text) =
        server.ask(User::Reader, "SELECT throwIf(number = 5) FROM numbers(10)", &[]);
    assert!(status.is_server_error() && text.starts_with("Code: 395. "), "{status} {text}");
}

#[test]
fn empty_results_and_totals_are_whole_documents() {
    let Some(server) = fixture() else { return };
    let json = |sql: &str| -> serde_json::Value {
        let (status, text) = server.ask(User::Reader, sql, &[]);
        assert_eq!(status, StatusCode::OK, "{text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    };
    assert_eq!(json("SELECT number FROM numbers(3) WHERE number > 9 FORMAT JSON")["rows"], 0);
    let totals =
        "SELECT number % 2 AS n, count() AS c FROM numbers(10) GROUP BY n WITH TOTALS FORMAT JSON";
    assert_eq!(json(totals)["totals"]["c"].as_u64().or(Some(10)), Some(10));
    assert_eq!(json("SELECT number FROM numbers(200000) FORMAT JSONCompact")["rows"], 200_000);
    assert_eq!(server.ask(User::Reader, "SELECT 1 WHERE 0 FORMAT CSVWithNames", &[]).1, "\"1\"\n");
    // Many pieces, one header.
    for (format, header) in
        [("CSVWithNames", "\"n\"\n0\n1\n"), ("TSVWithNamesAndTypes", "n\nUInt64\n0\n1\n")]
    {
        let sql = format!("SELECT number AS n FROM numbers(300000) FORMAT {format}");
        let text = server.ask(User::Reader, &sql, &[]).1;
        assert!(text.starts_with(header), "{}", &text[..60]);
        assert_eq!(text.lines().count(), 300_000 + header.lines().count() - 2);
    }
}

#[test]
fn a_session_keeps_settings_and_temporary_tables() {
    let Some(server) = fixture() else { return };
    let session = |sql: &str, more: &[(&str, &str)]| {
        let parameters = [&[("session_id", "one")], more].concat();
        server.ask(User::Admin, sql, &parameters)
    };
    assert_eq!(session("CREATE TEMPORARY TABLE t (a UInt8)", &[]).0, StatusCode::OK);
    assert_eq!(session("INSERT INTO t VALUES (1), (2)", &[]).0, StatusCode::OK);
    assert_eq!(session("SELECT sum(a) FROM t", &[]).1, "3\n");
    assert_eq!(session("SET max_threads = 3", &[]).0, StatusCode::OK);
    let threads = "SELECT getSetting('max_threads')";
    assert_eq!(session(threads, &[]).1, "3\n");
    assert_eq!(session(threads, &[("max_threads", "1")]).1, "1\n");
    assert_eq!(session(threads, &[]).1, "3\n", "a URL's setting must not outlive its request");
    let database = "SELECT currentDatabase()";
    assert_eq!(session("USE default", &[]).0, StatusCode::OK);
    assert_eq!(session(database, &[]).1, "default\n");
    assert_eq!(session(database, &[("database", "system")]).1, "system\n");
    assert_eq!(session(database, &[]).1, "default\n");
    assert_eq!(server.ask(User::Admin, "SELECT sum(a) FROM t", &[]).0, StatusCode::NOT_FOUND);
    let check = [("session_id", "unknown"), ("session_check", "1")];
    assert!(server.ask(User::Admin, "SELECT 1", &check).1.starts_with("Code: 372. "));
    // Two requests at once in one session: one of them is told so.
    let both = server.run(async {
        let ask = || async {
            let parameters = [("session_id", "busy")];
            let request = server.post(User::Admin, &parameters).body("SELECT sleep(1)");
            request.send().await.unwrap().text().await.unwrap()
        };
        let (one, two) = tokio::join!(ask(), ask());
        [one, two]
    });
    assert!(both.iter().any(|text| text.starts_with("Code: 373. ")), "{both:?}");
    assert!(both.contains(&"0\n".to_owned()), "{both:?}");
}

#[test]
fn settings_of_a_url_hold_for_their_request() {
    let Some(server) = fixture() else { return };
    let threads = "SELECT getSetting('max_threads')";
    assert_eq!(server.ask(User::Admin, threads, &[("max_threads", "5")]).1, "5\n");
    assert_ne!(server.ask(User::Admin, threads, &[]).1, "5\n");
    let (status, text) = server.ask(User::Admin, "SELECT 1", &[("no_such_setting", "1")]);
    assert!(status == StatusCode::NOT_FOUND && text.starts_with("Code: 115. "), "{text}");
    let (_, text) = server.ask(User::Admin, "SET max_threads = 7", &[]);
    assert_eq!(text, "");
    assert_ne!(server.ask(User::Admin, threads, &[]).1, "7\n", "a SET must not leak");
    let (status, text) = server.ask(User::Admin, "DROP TABLE plain", &[("readonly", "1")]);
    assert!(status.is_client_error() && text.starts_with("Code: 164. "), "{text}");
}

#[test]
fn get_reads_only_and_files_are_out_of_reach_of_admin_too() {
    let Some(server) = fixture() else { return };
    let text = server.run(async {
        let request = reqwest::Client::new()
            .get(with(&server.url, &[("query", "CREATE TABLE by_get (a UInt8) ENGINE = Memory")]))
            .basic_auth("admin", Some(&server.credentials.admin_password));
        request.send().await.unwrap().text().await.unwrap()
    });
    assert!(text.starts_with("Code: 164. "), "{text}");
    let target = server.folder.join("stolen");
    for sql in [
        format!("SELECT 1 INTO OUTFILE '{}'", target.display()),
        "INSERT INTO plain FROM INFILE '/etc/passwd' FORMAT LineAsString".to_owned(),
        "SELECT * FROM file('/etc/passwd', 'LineAsString')".to_owned(),
        "SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'a String')".to_owned(),
        "SYSTEM SHUTDOWN".to_owned(),
        "SELECT 1; DROP TABLE plain".to_owned(),
    ] {
        let (status, text) = server.ask(User::Admin, &sql, &[]);
        assert!(status.is_client_error(), "{sql}: {status} {text}");
    }
    assert!(!target.try_exists().unwrap());
}
