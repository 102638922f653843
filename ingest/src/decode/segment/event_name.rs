//! Names of Segment's `track` events as event types.

use chalkstream_schemas::EventType;

/// Longest name of a custom event, after `custom.`.
const CUSTOM_MAX_BYTES: usize = 64;

/// The event type that a name stands for: one of ours in any usual spelling (`answer_submitted`,
/// `Answer Submitted`, `answerSubmitted`), else `custom.` and the name in snake case.
pub(super) fn type_name(event: &str) -> String {
    if EventType::from_name(event).is_some() {
        return event.to_owned();
    }
    let mut name = snake_case(event);
    if EventType::from_name(&name).is_none() {
        name.truncate(CUSTOM_MAX_BYTES);
        name.insert_str(0, "custom.");
    }
    name
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
        // Of nothing usable nothing is made up: validation refuses it.
        check("", "custom.");
        check("答え", "custom.");
    }
}
