//! The mix of events that every figure is measured with.
//!
//! Of 20 events 14 are graded answers with one skill, 2 watched videos, 2 page views, 1 completed
//! lesson and 1 login; 10,000 learners of one school, 500 items, 50 skills. An event has about 275
//! bytes. Ids are UUIDs made from a counter, so every event of a run is new.

use std::fmt::Write as _;

use uuid::Uuid;

const LEARNERS: u64 = 10_000;

/// Makes batches as JSON arrays; `stream` separates the ids of parallel clients.
#[derive(Debug)]
pub(crate) struct Generator {
    stream: u64,
    next: u64,
    occurred_at: String,
}

impl Generator {
    pub(crate) fn new(run: u64, stream: u64) -> Self {
        let now = chrono::Utc::now();
        Self {
            stream: run << 16 | stream,
            next: 0,
            occurred_at: now.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        }
    }

    /// A JSON array of `events` events.
    pub(crate) fn batch(&mut self, events: usize) -> Vec<u8> {
        let mut body = String::with_capacity(events * 300);
        body.push('[');
        for index in 0..events {
            if index > 0 {
                body.push(',');
            }
            self.event(&mut body);
        }
        body.push(']');
        body.into_bytes()
    }

    fn event(&mut self, body: &mut String) {
        let number = self.next;
        self.next += 1;
        let id = Uuid::from_u64_pair(self.stream, number);
        // A multiplier coprime to the number of learners visits all of them in a scattered order.
        let learner = (number * 7_919 + self.stream * 31) % LEARNERS;
        let item = (number * 31 + learner) % 500;
        let (kind, data) = match number % 20 {
            0..14 => (
                "answer_submitted",
                format!(
                    r#"{{"item_id":"item-{item:05}","skill_ids":["skill-{:02}"],"correct":{},"time_taken_ms":{},"attempt_number":1}}"#,
                    item % 50,
                    !(number / 7 + learner).is_multiple_of(3),
                    2_000 + item * 17
                ),
            ),
            14..16 => (
                "video_watch",
                format!(
                    r#"{{"video_id":"video-{item:05}","duration_seconds":{},"action":"pause"}}"#,
                    5 + item % 90
                ),
            ),
            16..18 => ("page_view", format!(r#"{{"page":"/courses/algebra/{item}"}}"#)),
            18 => {
                ("lesson_complete", format!(r#"{{"lesson_id":"lesson-{item:05}","progress":1}}"#))
            }
            _ => ("login", "{}".to_owned()),
        };
        // Writing to a String cannot fail.
        let _infallible = write!(
            body,
            r#"{{"id":"{id}","type":"{kind}","user_id":"learner-{learner:06}","occurred_at":"{}","session_id":"session-{learner:06}","course_id":"algebra-1","app":"bench","data":{data}}}"#,
            self.occurred_at
        );
    }
}
