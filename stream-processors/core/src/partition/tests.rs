//! What must hold for every fold: restores, drains and evictions do not show.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::testing::{Rows, answer, bkt, event, fold_on, fresh, restored, school_zone};

/// One thing that happens, small enough that sessions, days and skills meet often.
#[derive(Clone, Debug)]
struct Step {
    user: u8,
    kind: u8,
    /// Minutes since the one before; negative: late.
    minutes: i32,
    skill: u8,
    correct: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let minutes = prop_oneof![4 => 0..20, 2 => 20..40, 1 => -60..0, 1 => 600..6000, 1 => -9000..0];
    let step = (0..3_u8, 0..9_u8, minutes, 0..4_u8, any::<bool>());
    let step = step.prop_map(|(user, kind, minutes, skill, correct)| Step {
        user,
        kind,
        minutes,
        skill,
        correct,
    });
    prop::collection::vec(step, 1..80)
}

fn events(steps: &[Step]) -> Vec<LearningEvent> {
    let mut minute = 20_000_000_i64;
    (0..)
        .zip(steps)
        .map(|(number, step)| {
            minute += i64::from(step.minutes);
            let (user, ms) = (format!("u{}", step.user), minute * 60_000);
            let time = chalkstream_schemas::Timestamp::from_ms(ms);
            let session = match step.skill {
                0 => "",
                1 => r#""session_id":"s1","#,
                _ => r#""session_id":"s2","course_id":"c","#,
            };
            let plain = |name: &str, data: &str| {
                event(
                    number,
                    &format!(
                        r#""type":"{name}","user_id":"{user}","occurred_at":"{time}",{session}"data":{{{data}}}"#
                    ),
                )
            };
            match step.kind {
                0 => plain("login", ""),
                1 => plain("video_watch", r#""video_id":"v","duration_seconds":33.3"#),
                2 => plain("quiz_attempt", r#""quiz_id":"q","duration_seconds":60"#),
                3 => plain("quiz_complete", r#""quiz_id":"q","score":50,"duration_seconds":61.5"#),
                _ => answer(
                    number,
                    &user,
                    ms,
                    &format!(
                        r#"{session}"data":{{"item_id":"i{}","skill_ids":["k{}","k{}"],"correct":{},"time_taken_ms":{},"answer":"{}"}}"#,
                        step.skill, step.skill, step.kind, step.correct, step.minutes.abs(), step.kind
                    ),
                ),
            }
        })
        .collect()
}

fn control(state: &mut PartitionState, rows: &mut Rows) {
    let offset = LogOffset::new;
    state.apply_control(offset(0), &school_zone("Asia/Tokyo"), &[], rows).unwrap();
    state.apply_control(offset(1), &bkt(2, None, "v1", "k1", 0.4), &[], rows).unwrap();
}

/// Folds everything, draining rows after every `every` events.
fn fold_draining(events: &[LearningEvent], every: usize) -> (Rows, Vec<StateRow>) {
    let (mut state, mut rows) = (fresh(), Rows::default());
    control(&mut state, &mut rows);
    for (chunk, from) in events.chunks(every).zip((2..).step_by(every)) {
        fold_on(&mut state, from, chunk, &mut rows);
        state.drain_rows(&mut rows);
    }
    let states = state.drain_states();
    (rows, states)
}

fn sorted(mut states: Vec<StateRow>) -> Vec<StateRow> {
    states.sort_by(|a, b| (&a.kind, &a.key).cmp(&(&b.kind, &b.key)));
    states
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Where the crash falls must not show: fold all == fold, save, load, fold the rest.
    #[test]
    fn a_restore_is_invisible(steps in steps(), cut in any::<Index>()) {
        let events = events(&steps);
        let cut = cut.index(events.len() + 1);
        let (whole, whole_states) = fold_draining(&events, usize::MAX);

        let (mut state, mut rows) = (fresh(), Rows::default());
        control(&mut state, &mut rows);
        fold_on(&mut state, 2, &events[..cut], &mut rows);
        state.drain_rows(&mut rows);
        let mut states = state.drain_states();
        // What was folded after the checkpoint is lost, but its rows may be written.
        fold_on(&mut state, 2 + cut as u64, &events[cut..], &mut rows);
        state.drain_rows(&mut rows);

        let mut state = restored(&states);
        fold_on(&mut state, 2 + cut as u64, &events[cut..], &mut rows);
        state.drain_rows(&mut rows);
        prop_assert_eq!(rows.visible(), whole.visible());
        states.extend(state.drain_states());
        let mut latest: std::collections::BTreeMap<_, _> = Default::default();
        for row in states {
            latest.insert((row.kind.clone(), row.key.clone()), row);
        }
        prop_assert_eq!(sorted(latest.into_values().collect()), sorted(whole_states));
    }

    /// How often rows are drained must not show, neither in rows nor in states.
    #[test]
    fn draining_is_invisible(steps in steps(), every in 1..20_usize) {
        let events = events(&steps);
        let (whole, states) = fold_draining(&events, usize::MAX);
        let (often, states_often) = fold_draining(&events, every);
        prop_assert_eq!(often.visible(), whole.visible());
        prop_assert_eq!(sorted(states_often), sorted(states));
    }

    /// Whatever left the state on the way: partials add up to what happened.
    #[test]
    fn partials_add_up(steps in steps()) {
        let events = events(&steps);
        let rows = fold_draining(&events, 7).0;
        let sum = |table: &str, column: &str| {
            rows.of(table).iter().map(|row| row[column].parse::<usize>().unwrap()).sum::<usize>()
        };
        let answers = steps.iter().filter(|step| step.kind > 3).count();
        prop_assert_eq!(sum("activity_quarter_hourly_state", "event_count"), events.len());
        prop_assert_eq!(sum("sessions_state", "event_count"), events.len());
        prop_assert_eq!(sum("sessions_state", "answers"), answers);
        prop_assert_eq!(sum("learner_engagement_daily_state", "answers"), answers);
        prop_assert_eq!(sum("item_stats_part", "attempts"), answers);
        let videos = steps.iter().filter(|step| step.kind == 1).count();
        prop_assert_eq!(sum("learner_engagement_daily_state", "video_ms"), videos * 33_300);
    }

    /// Stored bytes that were cut or altered are an error or another state, never a panic.
    #[test]
    fn damaged_states_do_not_panic(steps in steps(), cut in any::<Index>(), flip in any::<(Index, u8)>()) {
        for row in fold_draining(&events(&steps), 9).1 {
            let mut short = row.clone();
            short.state.truncate(cut.index(row.state.len()));
            if !short.state.is_empty() {
                prop_assert!(fresh().restore(&short).is_err());
            }
            let mut altered = row.clone();
            let at = flip.0.index(row.state.len());
            altered.state[at] ^= flip.1;
            let restored = fresh().restore(&altered);
            prop_assert!(at > 0 || flip.1 == 0 || restored.is_err(), "the format is checked");
        }
    }
}

#[test]
fn an_item_left_alone_for_long_begins_a_partial_and_frees_its_state() {
    use crate::shared::EXPIRE_AFTER;
    let of = |number, item: &str| {
        answer(number, "kim", 0, &format!(r#""data":{{"item_id":"{item}","correct":true}}"#))
    };
    let (mut state, mut rows) = (fresh(), Rows::default());
    fold_on(&mut state, 0, &[of(0, "old")], &mut rows);
    state.drain_rows(&mut rows);
    state.drain_states();
    fold_on(&mut state, EXPIRE_AFTER + 1, &[of(1, "new")], &mut rows);
    state.drain_rows(&mut rows);
    let tombstones: Vec<_> =
        state.drain_states().into_iter().filter(|row| row.state.is_empty()).collect();
    assert_eq!(tombstones.len(), 1);
    assert!(tombstones[0].key.ends_with(b"old"));
    fold_on(&mut state, EXPIRE_AFTER + 2, &[of(2, "old")], &mut rows);
    state.drain_rows(&mut rows);
    let parts = rows.of("item_stats_part").into_iter().filter(|row| row["item_id"] == "old");
    assert_eq!(parts.map(|row| row["attempts"].clone()).collect::<Vec<_>>(), ["1", "1"]);
}

#[test]
fn an_unknown_kind_is_refused() {
    let row = StateRow::new("theta", ["x"], LogOffset::ZERO, vec![1]);
    let unknown = DecodeError::UnknownKind { kind: "theta".into() };
    assert_eq!(fresh().restore(&row), Err(unknown));
}
