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
  // The events.
  repeated LearningEvent events = 2;
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
