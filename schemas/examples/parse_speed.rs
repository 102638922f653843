//! How many events a second one core reads: `cargo run --release -p chalkstream-schemas --example
//! parse_speed`. Prints events/s and MB/s for parsing, encoding and decoding.

#![expect(clippy::print_stdout, reason = "an example that prints what it measured")]

use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

use chalkstream_schemas::record::encode_event;
use chalkstream_schemas::{
    EventReader, LogRecord, ParseContext, SchoolId, Timestamp, Undated, record_key,
};

const EVENT: &str = r#"{"id":"01890a5d-ac96-774b-bcce-b302099a8057","type":"answer_submitted","user_id":"learner-4711","occurred_at":"2026-03-02T09:59:58.250Z","session_id":"s-991","course_id":"algebra-1","data":{"item_id":"item-1234","skill_ids":["fractions"],"correct":true,"time_taken_ms":8250,"attempt_number":1}}"#;

fn measure(what: &str, bytes: usize, mut once: impl FnMut()) {
    let start = Instant::now();
    let mut count = 0_u32;
    while start.elapsed() < Duration::from_secs(2) {
        for _ in 0..1000 {
            once();
        }
        count += 1000;
    }
    let seconds = start.elapsed().as_secs_f64();
    let a_second = f64::from(count) / seconds;
    let bytes = f64::from(u32::try_from(bytes).unwrap_or(u32::MAX));
    println!("{what}: {a_second:.0} events/s, {:.0} MB/s", a_second * bytes / 1e6);
}

fn main() -> Result<(), Box<dyn Error>> {
    let school_id = SchoolId::parse("lincoln")?;
    let cx = ParseContext {
        school_id: &school_id,
        received_at: Timestamp::parse_rfc3339("2026-03-02T10:00:00Z")?,
        batch_sent_at: None,
        undated: Undated::Rejected,
        max_age: Some(Duration::from_secs(400 * 86_400)),
        max_future: Duration::from_secs(600),
        max_event_bytes: 65_536,
    };
    println!("one event of {} bytes", EVENT.len());
    let mut reader = EventReader::new();
    measure("parse", EVENT.len(), || {
        drop(black_box(reader.read(black_box(EVENT.as_bytes()), &cx)));
    });
    let event = reader.read(EVENT.as_bytes(), &cx).map_err(|rejection| rejection.to_string())?;
    measure("identity", EVENT.len(), || {
        black_box(black_box(&event).identity());
    });
    let key = record_key(event.school_id, &event.user_id);
    let mut record = Vec::new();
    encode_event(&event, &mut record);
    let mut out = Vec::new();
    measure("encode", record.len(), || {
        out.clear();
        encode_event(black_box(&event), &mut out);
    });
    measure("decode", record.len(), || {
        drop(black_box(LogRecord::decode(&key, black_box(&record))));
    });
    Ok(())
}
