//! The ready-made requests of `docs/bruno`, sent to a real server as Bruno would send them.
//!
//! The reader here knows the parts of Bruno's format that the collection uses, and panics at any
//! other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::{Server, server};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/bruno")
}

/// Every request's file, in the order of the folders.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("environments") {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|ending| ending == "bru") && path != folder {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The blocks of a file: `name {`, lines, `}` at the line's start.
fn blocks(text: &str) -> BTreeMap<String, String> {
    let mut blocks = BTreeMap::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim().is_empty() {
            continue;
        }
        let name = line.strip_suffix(" {").unwrap_or_else(|| panic!("no block begins: {line}"));
        let body = lines.by_ref().take_while(|line| *line != "}").collect::<Vec<_>>();
        let body = body.iter().map(|line| line.strip_prefix("  ").unwrap_or(line));
        blocks.insert(name.to_owned(), body.collect::<Vec<_>>().join("\n"));
    }
    blocks
}

/// The lines `name: value` of a block.
fn pairs(block: &str) -> Vec<(String, String)> {
    let pair = |line: &str| {
        let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("no pair: {line}"));
        (name.to_owned(), value.to_owned())
    };
    block.lines().map(pair).collect()
}

fn value_of(block: &str, wanted: &str) -> String {
    let found = pairs(block).into_iter().find(|(name, _)| name == wanted);
    found.unwrap_or_else(|| panic!("no `{wanted}` in {block}")).1
}

/// The text with every `{{variable}}` replaced.
fn filled(text: &str, server: &Server) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").unwrap();
        out.push_str(before);
        out.push_str(&match name {
            "base_url" => server.url(""),
            "write_key" => server.key.clone(),
            "$guid" => uuid::Uuid::new_v4().to_string(),
            "$isoTimestamp" => server.event("")["occurred_at"].as_str().unwrap().to_owned(),
            other => panic!("no such variable: {other}"),
        });
        rest = after;
    }
    out + rest
}

/// What `res.body.results[0].status` names in an answer.
fn named(expression: &str, status: u16, text: &str) -> Option<Value> {
    match expression {
        "res.status" => Some(status.into()),
        "res.body" => Some(text.into()),
        path => {
            let path = path.strip_prefix("res.body").unwrap();
            let pointer = path.replace(['.', '['], "/").replace(']', "");
            serde_json::from_str::<Value>(text).unwrap().pointer(&pointer).cloned()
        }
    }
}

#[track_caller]
fn check(expression: &str, wanted: &str, status: u16, text: &str) {
    let found = named(expression, status, text);
    let (operator, operand) = wanted.split_once(' ').unwrap_or((wanted, ""));
    let found_text = match &found {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::new(),
    };
    let holds = match operator {
        "eq" => found_text == operand,
        "contains" => found_text.contains(operand),
        "isDefined" => found.is_some(),
        other => panic!("no such operator: {other}"),
    };
    assert!(holds, "{expression}: {wanted}, but the answer is {status} {text}");
}

/// Sends one request and checks what it asserts. Returns its method and path.
async fn run(server: &Server, file: &Path) -> (String, String) {
    let blocks = blocks(&std::fs::read_to_string(file).unwrap());
    let methods = ["get", "post", "put", "delete"];
    let (method, request) =
        blocks.iter().find(|(name, _)| methods.contains(&name.as_str())).unwrap();
    let url = filled(&value_of(request, "url"), server);
    let method = method.to_uppercase();
    let mut sent = server.client.request(method.parse().unwrap(), &url);
    match value_of(request, "auth").as_str() {
        "none" => {}
        "bearer" => {
            sent = sent.bearer_auth(filled(&value_of(&blocks["auth:bearer"], "token"), server))
        }
        other => panic!("no such auth: {other}"),
    }
    let headers = blocks.get("headers").map(|block| pairs(block)).unwrap_or_default();
    let typed = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    for (name, value) in headers {
        sent = sent.header(name, filled(&value, server));
    }
    match value_of(request, "body").as_str() {
        "none" => {}
        kind @ ("json" | "text") => {
            let media_type = if kind == "json" { "application/json" } else { "text/plain" };
            if !typed {
                sent = sent.header("content-type", media_type);
            }
            sent = sent.body(filled(&blocks[&format!("body:{kind}")], server));
        }
        other => panic!("no such body: {other}"),
    }
    let answer = sent.send().await.unwrap();
    let (path, status) = (answer.url().path().to_owned(), answer.status().as_u16());
    let text = answer.text().await.unwrap();
    for (expression, wanted) in pairs(&blocks["assert"]) {
        check(&expression, &wanted, status, &text);
    }
    (method, path)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_ready_made_request_does_what_it_says_and_no_route_is_without_one() {
    let server = server().await;
    let mut shown = BTreeSet::new();
    for file in files(&folder()) {
        println!("{}", file.display());
        shown.insert(run(&server, &file).await);
    }
    let document = server.get("/openapi.json").await.json::<Value>().await.unwrap();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let path = path.replace("{type}", "answer_submitted");
            let route = (method.to_uppercase(), path);
            assert!(shown.contains(&route), "no request in docs/bruno shows {route:?}");
        }
    }
    server.check_conservation().await;
}
