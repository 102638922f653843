use std::io::Write;

use super::*;

fn events(text: &[u8], ids: Option<&str>) -> Result<Vec<(u64, String)>> {
    let mut events = Events::open(Box::new(std::io::Cursor::new(text.to_vec())), ids)?;
    let mut found = Vec::new();
    while let Some(item) = events.next_item()? {
        assert_eq!(item.number, found.len() as u64);
        found.push((item.place, String::from_utf8(item.raw).unwrap()));
    }
    Ok(found)
}

#[track_caller]
fn check(text: &str, expected: &[(u64, &str)]) {
    let expected: Vec<_> =
        expected.iter().map(|(place, raw)| (*place, (*raw).to_owned())).collect();
    assert_eq!(events(text.as_bytes(), None).unwrap(), expected, "plain: {text}");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text.as_bytes()).unwrap();
    assert_eq!(events(&gzip.finish().unwrap(), None).unwrap(), expected, "gzip: {text}");
}

#[test]
fn lines_keep_their_numbers_and_blank_ones_are_no_events() {
    check("{\"a\":1}\n{\"a\":2}\n", &[(1, "{\"a\":1}"), (2, "{\"a\":2}")]);
    check("\n\n{\"a\":1}\r\n  \n{\"a\":2}", &[(3, "{\"a\":1}"), (5, "{\"a\":2}")]);
    check("\u{feff}{\"a\":1}\n", &[(1, "{\"a\":1}")]);
    check("", &[]);
    check("\n \n", &[]);
}

#[test]
fn a_broken_line_is_an_event_of_its_own() {
    check(
        "{\"a\":1}\nnot json\n{\"a\":3}\n",
        &[(1, "{\"a\":1}"), (2, "not json"), (3, "{\"a\":3}")],
    );
    check("{\"a\":\n{\"a\":2}\n", &[(1, "{\"a\":"), (2, "{\"a\":2}")]);
    check("oops\n{\"a\":2}\n", &[(1, "oops"), (2, "{\"a\":2}")]);
}

#[test]
fn an_array_is_taken_apart_where_its_elements_end() {
    check("[]", &[]);
    check(" [ {\"a\":1} , {\"a\":\"],\\\"{\"} ] ", &[(1, "{\"a\":1}"), (2, "{\"a\":\"],\\\"{\"}")]);
    check("[{\n\"a\": [1,\n2]}]", &[(1, "{ \"a\": [1, 2]}")]);
    check("[{\"a\":1},[2],\"3\\\\\"]", &[(1, "{\"a\":1}"), (2, "[2]"), (3, "\"3\\\\\"")]);
}

#[test]
fn an_array_that_is_cut_off_says_after_which_event() {
    let error = events(b"[{\"a\":1},{\"a\":", None).unwrap_err().to_string();
    assert!(error.contains("event 2"), "{error}");
}

#[test]
fn one_object_is_one_event_or_a_batch() {
    check("{\n \"a\": 1\n}\n", &[(1, "{  \"a\": 1 }")]);
    check(
        "{\"sent_at\":\"x\",\"events\":[{\"a\":1},\n{\"a\":2}]}",
        &[(1, "{\"a\":1}"), (2, "{\"a\":2}")],
    );
    let text = b"{\"sent_at\":\"x\",\n\"events\":[]}".to_vec();
    let batch = Events::open(Box::new(std::io::Cursor::new(text)), None).unwrap();
    assert_eq!(batch.sent_at().unwrap().get(), "\"x\"");
}

#[test]
fn events_of_a_learner_share_a_worker_whatever_else_they_say() {
    let text =
        b"{\"user_id\":\"amina\",\"x\":1}\n{\"x\":[2],\"user_id\":\"amin\\u0061\"}\n".to_vec();
    let mut events = Events::open(Box::new(std::io::Cursor::new(text)), None).unwrap();
    let first = events.next_item().unwrap().unwrap();
    let second = events.next_item().unwrap().unwrap();
    for workers in 1..10 {
        assert_eq!(first.worker(workers), second.worker(workers));
        assert!(first.worker(workers) < workers);
    }
}

#[test]
fn made_ids_are_the_same_in_every_run_and_given_ones_stay() {
    let text = b"{\"type\":\"login\"}\n{\"id\":\"x\"}\n{\"client_attempt_id\":\"y\"}\n{}\n{\"type\":\"login\"}\n";
    let first = events(text, Some("a.ndjson")).unwrap();
    assert_eq!(first, events(text, Some("a.ndjson")).unwrap());
    assert_ne!(first[0], events(text, Some("b.ndjson")).unwrap()[0]);
    assert_eq!(first[1].1, "{\"id\":\"x\"}");
    assert_eq!(first[2].1, "{\"client_attempt_id\":\"y\"}");
    assert_ne!(first[0].1, first[4].1, "the same event twice is two events");
    for (_, event) in first {
        serde_json::from_str::<serde_json::Value>(&event).unwrap();
    }
}
