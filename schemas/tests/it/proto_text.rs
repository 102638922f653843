//! `proto/chalkstream/events/v1/events.proto` is the table of event types, written as protobuf.

use std::fmt::Write;
use std::path::PathBuf;

use chalkstream_schemas::fields::{Field, Kind};
use chalkstream_schemas::parse::ENVELOPE;
use chalkstream_schemas::payload::CUSTOM_NUMBER;

use crate::examples::types;

const HEAD: &str = r#"// Events as clients may send them. Written from the table in src/payload.rs: change that, then run
// `CHALKSTREAM_BLESS=1 cargo test -p chalkstream-schemas`. Numbers never change.
//
// Every field has presence, so that an absent one can be told from zero; which ones are required,
// ranges and lengths are those of the JSON form.
syntax = "proto3";

package chalkstream.events.v1;

import "google/protobuf/timestamp.proto";

// Several events of one sender.
message EventBatch {
  // When the batch was sent, for events without their own sent_at.
  optional google.protobuf.Timestamp sent_at = 1;
  // Events of any type.
  repeated LearningEvent events = 2;
  // Answers.
  repeated AttemptEvent attempts = 3;
  // Sessions that ended.
  repeated SessionEvent sessions = 4;
  // Placement tests that ended.
  repeated PlacementEvent placements = 5;
}

// A learner answered a question: answer_submitted in fewer words.
message AttemptEvent {
  // Who answered. Required.
  optional string user_id = 1;
  // The question that was answered. Required.
  optional string item_id = 2;
  // The session, as the client counts it.
  optional string session_id = 3;
  // The event's own id, best a UUID; the same again when it is sent again. Required.
  optional string client_attempt_id = 4;
  // What was answered: a text, or the name of an option.
  optional string selected = 5;
  // Whether the answer is right. Required.
  optional bool correct = 6;
  // The quality of recall, from 0 (blackout) to 5 (perfect).
  optional uint32 quality = 7;
  // The time from question to answer, in milliseconds.
  optional uint64 time_taken_ms = 8;
  // How many hints were used.
  optional uint32 hints_used = 9;
  // The kind of device.
  optional string device_type = 10;
  // The application's version.
  optional string app_version = 11;
  // When it happened, by the device's clock. Required.
  optional google.protobuf.Timestamp timestamp = 12;
}

// A learner's session ended: session in fewer words.
message SessionEvent {
  // Whose session it was. Required.
  optional string user_id = 1;
  // The session, as the client counts it.
  optional string session_id = 2;
  // The event's own id, best a UUID; the same again when it is sent again. Required.
  optional string id = 3;
  // When the session began, by the device's clock. Required.
  optional google.protobuf.Timestamp started_at = 4;
  // When it ended, by the device's clock. Required.
  optional google.protobuf.Timestamp ended_at = 5;
  // The kind of session: practice, review, mock_test or placement.
  optional string session_type = 6;
  // How many questions were attempted.
  optional uint32 items_attempted = 7;
  // How many of them were answered right.
  optional uint32 correct_count = 8;
  // The time spent on questions, in milliseconds.
  optional uint64 total_time_ms = 9;
  // The skills that were practised.
  repeated string skills_practiced = 10;
  // The mean difficulty of the questions.
  optional double average_difficulty = 11;
  // The kind of device.
  optional string device_type = 12;
  // The application's version.
  optional string app_version = 13;
  // When the event happened, by the device's clock. Required.
  optional google.protobuf.Timestamp timestamp = 14;
}

// A placement test found where a learner stands: placement in fewer words.
message PlacementEvent {
  // Who was placed. Required.
  optional string user_id = 1;
  // The session, as the client counts it.
  optional string session_id = 2;
  // The event's own id, best a UUID; the same again when it is sent again. Required.
  optional string id = 3;
  // Ability (theta) by skill. Required.
  map<string, double> abilities = 4;
  // Probability of mastery by skill.
  map<string, double> mastery = 5;
  // The kind of device.
  optional string device_type = 6;
  // The application's version.
  optional string app_version = 7;
  // When it happened, by the device's clock. Required.
  optional google.protobuf.Timestamp timestamp = 8;
}

// What a learner answered.
message Answer {
  // One of these.
  oneof kind {
    // A text, or the name of an option.
    string text = 1;
    // A number.
    double number = 2;
    // Several options or gaps.
    AnswerParts many = 3;
  }
}

// Several parts of an answer; numbers as their decimal text.
message AnswerParts {
  // The parts.
  repeated string parts = 1;
}

"#;

/// The protobuf type of a field, with its label.
pub(crate) fn proto_type(field: &Field) -> &'static str {
    match field.kind {
        Kind::Id | Kind::Text | Kind::Word(_) => "optional string",
        Kind::Bool => "optional bool",
        Kind::Number { .. } => "optional double",
        Kind::Integer { max, .. } if max <= u64::from(u32::MAX) => "optional uint32",
        Kind::Integer { .. } | Kind::Millis => "optional uint64",
        Kind::Time => "optional google.protobuf.Timestamp",
        Kind::Ids => "repeated string",
        Kind::Answer => "optional Answer",
        Kind::SkillNumbers { .. } => "map<string, double>",
    }
}

fn write_field(out: &mut String, field: &Field) {
    let required = if field.required { " Required." } else { "" };
    writeln!(out, "  // {}{required}", field.doc.trim()).unwrap();
    if let Kind::Word(words) = field.kind {
        writeln!(out, "  // One of {}.", words.join(", ")).unwrap();
    }
    writeln!(out, "  {} {} = {};", proto_type(field), field.name, field.number).unwrap();
}

fn render() -> String {
    let mut out = HEAD.to_owned();
    out.push_str(
        "// Something that a person did, or that happened to them.\nmessage LearningEvent {\n",
    );
    for field in &ENVELOPE {
        write_field(&mut out, field);
    }
    out.push_str(
        "  // Members beyond these, as the text of a JSON object.\n  optional string extra = 13;\n  \
         // Members of the payload beyond its message's, as the text of a JSON object.\n  optional \
         string data_extra = 14;\n  // What happened.\n  oneof payload {\n",
    );
    let mut sorted: Vec<_> = types().collect();
    sorted.sort_by_key(|info| info.number);
    writeln!(out, "    // An event that the application defined; `type` is its `custom.NAME`.")
        .unwrap();
    writeln!(out, "    Custom custom = {CUSTOM_NUMBER};").unwrap();
    for info in &sorted {
        writeln!(out, "    // {}", info.doc.trim()).unwrap();
        writeln!(out, "    {} {} = {};", info.message, info.name, info.number).unwrap();
    }
    out.push_str("  }\n}\n\n// An event that the application defined.\nmessage Custom {\n");
    out.push_str(
        "  // The payload as the text of a JSON object.\n  optional string data = 1;\n}\n",
    );
    for info in &sorted {
        write!(out, "\n// {}", info.doc.trim()).unwrap();
        if !info.envelope.is_empty() {
            write!(out, " The envelope must name {}.", info.envelope.join(", ")).unwrap();
        }
        writeln!(out, "\nmessage {} {{", info.message).unwrap();
        for field in info.fields {
            write_field(&mut out, field);
        }
        out.push_str("}\n");
    }
    out
}

#[test]
fn the_protobuf_file_is_the_table() {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("proto/chalkstream/events/v1/events.proto");
    let wanted = render();
    if std::env::var_os("CHALKSTREAM_BLESS").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap();
    let line = found.lines().zip(wanted.lines()).position(|(found, wanted)| found != wanted);
    assert!(
        found == wanted,
        "{} differs from the table in src/payload.rs (first at line {:?}); run \
         `CHALKSTREAM_BLESS=1 cargo test -p chalkstream-schemas`",
        path.display(),
        line.map(|line| line + 1),
    );
}
