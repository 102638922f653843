//! The canonical form of an event, and its hash.
//!
//! The form, as bytes: the version 1; `school_id`, `user_id` and the 16 bytes of `id`; the
//! canonical type name; `user_role`; `occurred_at` in milliseconds, `n` where the event names no time and
//! happened when it was sent ([`crate::parse::Undated`]); `session_id`, `course_id`,
//! `classroom_id`, `app`, `device_type`, `app_version`; then the members of `data`, and the unknown
//! members of the envelope, as objects. `sent_at`, `received_at` and `event_time` are left out.
//! A value is a tag and its content: `n` null, `t` true, `f` false, `i` a whole number (i64, little
//! endian), `d` any other number (the bits of its f64), `x` a number beyond f64 (its text), `s` a
//! string (length as u32, UTF-8), `a` elements `e`, `o` members sorted by name `e`.
//! A known field that holds a time is its milliseconds since 1970, a whole number.
//! The hash is XXH3 with 128 bits. It tells apart by mistake what has one id; whoever makes two
//! contents collide can only have an event of their own taken for a copy of the other, so it need
//! not stand attacks, as the hash of an identity must.
//! Always true: key order, white space, escapes, the spelling of numbers and of times, aliases, and
//! a null in place of an absent known field do not change the hash; anything else does.

use xxhash_rust::xxh3::xxh3_128;

use crate::event::EventRef;
use crate::ids::ContentHash;
use crate::json::{Reader, Value};
use crate::member::Member;
use crate::number;
use crate::time::Timestamp;

/// Room for the form of one event after another.
#[derive(Debug, Default)]
pub(crate) struct Form(Vec<u8>);

impl Form {
    /// Hashes an event that names this time; `data` and `extra` are its members, their repeated names
    /// ruled out.
    pub(crate) fn hash(
        &mut self,
        event: &EventRef<'_>,
        own_time: Option<Timestamp>,
        data: &mut [Member<'_>],
        extra: &mut [Member<'_>],
    ) -> ContentHash {
        self.0.clear();
        self.0.push(1);
        self.text(event.school_id.as_str());
        self.text(&event.user_id);
        self.0.extend_from_slice(event.id.as_uuid().as_bytes());
        self.text(&event.type_name);
        self.text(event.user_role.as_str());
        match own_time {
            Some(time) => self.whole(time.as_ms()),
            None => self.0.push(b'n'),
        }
        let optional = [
            &event.session_id,
            &event.course_id,
            &event.classroom_id,
            &event.app,
            &event.device_type,
            &event.app_version,
        ];
        for text in optional {
            match text {
                Some(text) => self.text(text),
                None => self.0.push(b'n'),
            }
        }
        self.members(data);
        self.members(extra);
        ContentHash::from_bytes(xxh3_128(&self.0).to_be_bytes())
    }

    fn members(&mut self, members: &mut [Member<'_>]) {
        if members.iter().all(|member| member.key.plain().is_some()) {
            members.sort_unstable_by(|a, b| a.name().cmp(&b.name()));
        } else {
            // Each name is unescaped once, however many there are.
            members.sort_by_cached_key(Member::name);
        }
        self.0.push(b'o');
        for member in members.iter().filter(|member| !member.absent) {
            self.text(&member.name());
            self.value(&member.value);
        }
        self.0.push(b'e');
    }

    fn text(&mut self, text: &str) {
        // An event of more than 4 GiB never gets here; if it did, only the hash would be weaker.
        let [a, b, c, d] = u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes();
        self.0.extend_from_slice(&[b's', a, b, c, d]);
        self.0.extend_from_slice(text.as_bytes());
    }

    fn whole(&mut self, number: i64) {
        self.0.push(b'i');
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn number(&mut self, text: &str) {
        if let Some(whole) = number::whole(text) {
            return self.whole(whole);
        }
        match number::finite(text) {
            Some(number) => {
                self.0.push(b'd');
                self.0.extend_from_slice(&number.to_bits().to_le_bytes());
            }
            None => {
                self.0.push(b'x');
                self.text(text);
            }
        }
    }

    /// Recursion is bounded by the reader's limit on nesting.
    fn value(&mut self, value: &Value<'_>) {
        match value {
            Value::Null => self.0.push(b'n'),
            Value::Bool(true) => self.0.push(b't'),
            Value::Bool(false) => self.0.push(b'f'),
            Value::Number(text) => self.number(text),
            Value::Millis(ms) => self.whole(i64::try_from(*ms).unwrap_or(i64::MAX)),
            Value::String(text) => self.text(&text.read()),
            Value::Array(text) => {
                self.0.push(b'a');
                let scanned = Reader::new(text).array(|reader| {
                    let element = reader.value()?;
                    self.value(&element);
                    Ok(())
                });
                debug_assert!(scanned.is_ok(), "a nested value was checked when it was skipped");
                self.0.push(b'e');
            }
            Value::Object(text) => {
                let mut members = Vec::new();
                let scanned = Reader::new(text).object(|reader, key| {
                    members.push((key.read(), reader.value()?));
                    Ok(())
                });
                debug_assert!(scanned.is_ok(), "a nested value was checked when it was skipped");
                // Stable: of members with one name, which only nested objects may have, the order
                // stays.
                members.sort_by(|a, b| a.0.cmp(&b.0));
                self.0.push(b'o');
                for (name, value) in &members {
                    self.text(name);
                    self.value(value);
                }
                self.0.push(b'e');
            }
        }
    }
}
