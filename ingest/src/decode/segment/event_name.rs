//! Names of Segment's `track` events as event types.

use chalkstream_schemas::EventType;
use sha2::{Digest as _, Sha256};

/// Longest name of a custom event, after `custom.`.
const CUSTOM_MAX_BYTES: usize = 64;
/// So much of a name's hash stands for it.
const HASH_BYTES: usize = 8;

/// The event type that a name stands for: one of ours in any usual spelling (`answer_submitted`,
/// `Answer Submitted`, `answerSubmitted`), else `custom.` and the name in snake case. A name that has
/// nothing to make one of, because it is written in other letters than ASCII's, gets one by its hash:
/// the same each time, and not another name's.
pub(super) fn type_name(event: &str) -> String {
    if EventType::from_name(event).is_some() {
        return event.to_owned();
    }
    let mut name = snake_case(event);
    if EventType::from_name(&name).is_none() {
        let is_foreign = !event.is_ascii() && !name.bytes().any(|byte| byte.is_ascii_alphabetic());
        if is_foreign || (name.is_empty() && !event.is_empty()) {
            name = by_hash(event);
        }
        name.truncate(CUSTOM_MAX_BYTES);
        name.insert_str(0, "custom.");
    }
    name
}

fn by_hash(event: &str) -> String {
    let hash: [u8; 32] = Sha256::digest(event).into();
    let (first, _rest) = hash.split_at(HASH_BYTES);
    format!("named_{}", hex::encode(first))
}

/// ASCII letters and digits in lower case, with `_` for whatever lies between words.
fn snake_case(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    let mut before = ' ';
    for c in text.chars() {
        let word_begins = c.is_ascii_uppercase() && !before.is_ascii_uppercase();
        let separated = !before.is_ascii_alphanumeric();
        if c.is_ascii_alphanumeric() {
            if (word_begins || separated) && !name.is_empty() {
                name.push('_');
            }
            name.push(c.to_ascii_lowercase());
        }
        before = c;
    }
    name
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(event: &str, expected: &str) {
        assert_eq!(type_name(event), expected);
    }

    #[test]
    fn known_names_are_types_in_every_usual_spelling() {
        for event in [
            "answer_submitted",
            "Answer Submitted",
            "answerSubmitted",
            "AnswerSubmitted",
            "answer-submitted",
            " Answer  submitted! ",
        ] {
            check(event, "answer_submitted");
        }
        check("Question Submitted", "question_submitted");
        check("Login", "login");
    }

    #[test]
    fn other_names_are_custom_events() {
        check("Order Completed", "custom.order_completed");
        check("custom.Quest-1.done", "custom.Quest-1.done");
        check("ABTest Shown 2", "custom.abtest_shown_2");
        check("Réponse envoyée", "custom.r_ponse_envoy_e");
        check("custom.no spaces here", "custom.custom_no_spaces_here");
        check(&"x".repeat(100), &format!("custom.{}", "x".repeat(64)));
        // Of nothing nothing is made up: validation refuses it.
        check("", "custom.");
    }

    #[test]
    fn a_name_in_other_letters_is_a_custom_event_of_its_own() {
        check("答え", "custom.named_3fa509879d6361f2");
        // Digits alone would be the same name for two subjects.
        check("数学 1", "custom.named_6912e520d8397059");
        check("国語 1", "custom.named_31cb98ae89346c3c");
        check("404", "custom.404");
        check("答え submitted", "custom.submitted");
    }

    proptest! {
        /// Every name but the empty one is a type, always the same.
        #[test]
        fn every_name_is_a_type(event in any::<String>(), foreign in "[\\p{Han}\\p{Cyrillic}\\p{Arabic}\\p{So} 0-9!→_.-]{1,40}") {
            for event in [event, foreign] {
                let name = type_name(&event);
                prop_assert_eq!(EventType::from_name(&name).is_some(), !event.is_empty(), "{} {}", event, name);
                prop_assert_eq!(&name, &type_name(&event));
            }
        }
    }
}
