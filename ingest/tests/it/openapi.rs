//! The OpenAPI document against the server: its examples are sent and answered to the letter, and
//! what the server answers has the shape that the document gives it.

use serde_json::{Map, Value, json};

use crate::harness::{Reply, Server, server};

/// Says where a value differs from an OpenAPI 3.1 schema. Knows the keywords that the document uses,
/// and panics at any other.
fn faults(document: &Value, schema: &Value, value: &Value, at: &str, out: &mut Vec<String>) {
    let Some(schema) = schema.as_object() else { panic!("no schema at {at}: {schema}") };
    if let Some(Value::String(reference)) = schema.get("$ref") {
        let pointer = reference.strip_prefix('#').unwrap();
        let target = document.pointer(pointer).unwrap_or_else(|| panic!("no {reference}"));
        return faults(document, target, value, at, out);
    }
    let members = Map::new();
    let members = value.as_object().unwrap_or(&members);
    for (keyword, wanted) in schema {
        match keyword.as_str() {
            "description" | "example" | "examples" | "format" | "title" => {}
            "type" => {
                let names = match wanted {
                    Value::String(name) => vec![name.as_str()],
                    names => {
                        names.as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect()
                    }
                };
                let is = |name: &&str| match *name {
                    "string" => value.is_string(),
                    "integer" => value.is_u64() || value.is_i64(),
                    "number" => value.is_number(),
                    "boolean" => value.is_boolean(),
                    "array" => value.is_array(),
                    "object" => value.is_object(),
                    "null" => value.is_null(),
                    other => panic!("no such type: {other}"),
                };
                if !names.iter().any(is) {
                    out.push(format!("{at} is no {names:?}: {value}"));
                }
            }
            "minimum" => {
                if value.as_f64().is_some_and(|number| number < wanted.as_f64().unwrap()) {
                    out.push(format!("{at} is below {wanted}: {value}"));
                }
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    faults(document, wanted, item, &format!("{at}/{index}"), out);
                }
            }
            "properties" => {
                let known = wanted.as_object().unwrap();
                for (name, value) in members {
                    match known.get(name) {
                        Some(schema) => {
                            faults(document, schema, value, &format!("{at}/{name}"), out)
                        }
                        None => out.push(format!("{at}/{name} is not documented")),
                    }
                }
            }
            "required" => {
                for name in wanted.as_array().unwrap() {
                    if !members.contains_key(name.as_str().unwrap()) {
                        out.push(format!("{at} lacks {name}"));
                    }
                }
            }
            other => panic!("the judge does not know `{other}` at {at}"),
        }
    }
}

/// The reply is one that the operation documents, in status, content type and shape.
#[track_caller]
fn check(document: &Value, operation: &Value, reply: &Reply) {
    let response = &operation["responses"][reply.status.to_string()];
    assert!(response.is_object(), "{} is not documented", reply.status);
    let media_type = reply.content_type.split(';').next().unwrap();
    let content = &response["content"][media_type];
    assert!(content.is_object(), "{media_type} is not documented for {}", reply.status);
    let mut found = Vec::new();
    let schema = &content["schema"];
    // What is no JSON is a text to the document.
    if media_type.ends_with("json") && *schema != json!({}) {
        faults(document, schema, &reply.body, "", &mut found);
    }
    assert!(found.is_empty(), "{found:#?} in {reply:?}");
}

async fn document(server: &Server) -> Value {
    server.get("/openapi.json").await.json::<Value>().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_is_answered_as_the_document_says() {
    let server = server().await;
    let document = document(&server).await;
    let operation = &document["paths"]["/v1/events"]["post"];
    let answers = |name: &str| {
        let responses = operation["responses"].as_object().unwrap();
        let found = responses.iter().find_map(|(status, response)| {
            let mut contents = response["content"].as_object()?.values();
            contents
                .find_map(|content| Some((status.clone(), content["examples"].get(name)?.clone())))
        });
        found.unwrap_or_else(|| panic!("no answer to {name}"))
    };
    let mut sent = 0;
    for (media_type, content) in operation["requestBody"]["content"].as_object().unwrap() {
        let examples = content["examples"].as_object();
        for (name, example) in examples.into_iter().flatten() {
            let body = match (&example["value"], media_type.as_str()) {
                (Value::String(text), "application/x-ndjson") => text.clone(),
                (value, _) => value.to_string(),
            };
            let headers = [("content-type", media_type.as_str())];
            let reply = server.send_bytes(&headers, body.into_bytes()).await;
            check(&document, operation, &reply);
            let (status, answer) = answers(name);
            assert_eq!(reply.status.to_string(), status, "{name}: {reply:?}");
            assert_eq!(reply.body, answer["value"], "{name}");
            sent += 1;
        }
    }
    assert_eq!(sent, 5);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_answered_has_the_shape_that_the_document_gives_it() {
    let server = server().await;
    let document = document(&server).await;
    let mut checked = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            // With the right credential and without, with a body that fits and with one that does not.
            for (key, body) in [(true, "[]"), (true, "{"), (false, "[]")] {
                for name in ["answer_submitted", "nonsense"] {
                    let url = server.url(&path.replace("{type}", name));
                    let method = method.to_uppercase().parse::<reqwest::Method>().unwrap();
                    let mut request = server.client.request(method.clone(), url);
                    if key {
                        request = request.bearer_auth(&server.key);
                    }
                    if method == "POST" {
                        request = request.header("content-type", "application/json").body(body);
                    }
                    let reply = Reply::of(request.send().await.unwrap()).await;
                    check(&document, operation, &reply);
                    checked += 1;
                }
            }
        }
    }
    assert!(checked >= 7 * 6, "{checked}");
    // Fates of every kind, named.
    let (event, other) = (server.event("same"), server.fresh());
    let mut conflict = event.clone();
    conflict["data"]["correct"] = json!(false);
    let batch = json!([event, event, conflict, other, { "type": "login" }, 7]);
    let reply = server.send_to("?results=all", &batch).await;
    assert_eq!(reply.body["results"].as_array().unwrap().len(), 6);
    check(&document, &document["paths"]["/v1/events"]["post"], &reply);
    server.check_conservation().await;
}
