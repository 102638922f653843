use chalkstream_access::{Admission, BucketKey, Permit};
use chalkstream_schemas::Timestamp;

use super::*;

mod rules;

fn split(body: Bytes, format: Format, max_events: usize) -> Result<Batch, Problem> {
    let options =
        IngestOptions { max_events: max_events.try_into().unwrap(), ..IngestOptions::default() };
    let mut permit = room(body.len());
    super::split(body, format, &options, &mut permit)
}

#[track_caller]
fn events(format: Format, body: &str, expected: &[&str]) -> Batch {
    let batch = split(Bytes::copy_from_slice(body.as_bytes()), format, 3).unwrap();
    let found = (0..batch.events.len())
        .map(|index| std::str::from_utf8(batch.raw(index)).unwrap())
        .collect::<Vec<_>>();
    assert_eq!(found, expected);
    batch
}

#[track_caller]
fn problem(format: Format, body: &str, kind: ProblemKind, part: &str) -> Problem {
    let problem = split(Bytes::copy_from_slice(body.as_bytes()), format, 3).unwrap_err();
    assert_eq!(problem.kind(), kind, "{problem:?}");
    assert!(format!("{problem:?}").contains(part), "{problem:?}");
    problem
}

#[test]
fn json_holds_one_event_an_array_or_a_batch() {
    events(Format::Json, " {\"id\": 1} ", &["{\"id\": 1}"]);
    events(Format::Json, "\u{feff}{\"id\": 1}", &["{\"id\": 1}"]);
    events(Format::Json, "{\"id\": 1, \"id\": 2}", &["{\"id\": 1, \"id\": 2}"]);
    events(Format::Json, "{}", &["{}"]);
    events(Format::Json, "[]", &[]);
    events(Format::Json, "[ {\"a\":[1]} , 7,null]", &["{\"a\":[1]}", "7", "null"]);
    let batch = events(
        Format::Json,
        "{\"extra\": {}, \"events\": [{}], \"sent_at\": \"2026-01-02T03:04:05Z\"}",
        &["{}"],
    );
    assert_eq!(batch.sent_at, Some(Timestamp::parse_rfc3339("2026-01-02T03:04:05Z").unwrap()));
    assert_eq!(events(Format::Json, "{\"events\": [], \"sent_at\": null}", &[]).sent_at, None);
    // What an event without `events` says is its own affair.
    let half = "{\"sent_at\": \"\\ud800\"}";
    events(Format::Json, half, &[half]);
    // An escaped name is the same name.
    events(Format::Json, "{\"\\u0065vents\": [1]}", &["1"]);
}

#[test]
fn ndjson_holds_an_event_a_line() {
    events(Format::Ndjson, "", &[]);
    events(Format::Ndjson, "{}\n\r\n  {\"a\": 1} \r\n{broken", &["{}", "{\"a\": 1}", "{broken"]);
    problem(Format::Ndjson, "1\n2\n3\n4", ProblemKind::TooManyEvents, "at most 3");
}

#[test]
fn a_broken_body_says_where() {
    let check = |body: &str, line, column, part: &str| {
        let problem = problem(Format::Json, body, ProblemKind::BrokenBody, part);
        assert_eq!(problem.position(), Some((line, column)), "{problem:?}");
    };
    check("", 1, 0, "empty");
    check("[{},\n {]", 2, 3, "");
    check("{\"events\": [{}", 1, 15, "ends inside an array");
    check("{} {}", 1, 4, "x-ndjson");
    check("7", 1, 1, "an array of events");
    check("{\"events\": {}}", 1, 12, "array of events");
    check("{\"events\": [], \"events\": []}", 1, 26, "twice");
    check("{\"events\": [], \"a\": 1, \"a\": 1}", 1, 29, "`a` twice");
    check("{\"events\": [], \"sent_at\": \"soon\"}", 1, 27, "sent_at");
    check("{\"events\": [], \"sent_at\": 5}", 1, 27, "sent_at");
    problem(Format::Json, "[1,2,3,4]", ProblemKind::TooManyEvents, "at most 3");
    problem(Format::Json, "{\"events\":[1,2,3,4]}", ProblemKind::TooManyEvents, "at most 3");
    let many = (0..70).map(|n| format!("\"m{n}\": 1")).collect::<Vec<_>>().join(",");
    problem(Format::Json, &format!("{{{many}, \"events\": []}}"), ProblemKind::BrokenBody, "64");
    events(Format::Json, &format!("{{{many}}}"), &[&format!("{{{many}}}")]);
}

/// Also where nobody looks: in a member that a batch does not have.
#[test]
fn a_batch_is_text_as_a_whole() {
    let body = Bytes::from_static(b"{\"events\":[{}],\"x\":{\"\xff\":[]}}");
    let problem = split(body, Format::Json, 3).unwrap_err();
    assert_eq!(problem.kind(), ProblemKind::BrokenBody);
    assert!(format!("{problem:?}").contains("not UTF-8 at byte 21"), "{problem:?}");
}

#[test]
fn nesting_does_not_exhaust_the_stack() {
    let deep = format!("[{}{}]", "[".repeat(1_000_000), "]".repeat(1_000_000));
    let batch = split(Bytes::from(deep), Format::Json, 3).unwrap();
    assert_eq!(batch.events.len(), 1);
    let open = Bytes::from("[".repeat(1_000_000));
    assert_eq!(split(open, Format::Json, 3).unwrap_err().kind(), ProblemKind::BrokenBody);
}

/// Room for so many bytes, of somebody who may hold everything.
pub(crate) fn room(bytes: usize) -> Permit {
    room_of(&Admission::new(1 << 30), bytes)
}

/// The same of a limit.
pub(crate) fn room_of(admission: &Admission, bytes: usize) -> Permit {
    admission.door(BucketKey::of(0), usize::MAX).admit(bytes).unwrap()
}
