//! Named points at which a test lets the process die, as `kill -9` would.
//!
//! `CHALKSTREAM_CRASH_AT=name` aborts at the first passage of `name`, `name:3` at the third. Without
//! the variable a point costs one load of a static. The points are always compiled in, so that what
//! is tested is what is shipped.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The environment variable that names a point.
pub const VARIABLE: &str = "CHALKSTREAM_CRASH_AT";

/// Every point, in the order in which a record meets them.
pub const POINTS: &[&str] = &[
    "before_restore",
    "after_index_fill",
    "after_restore",
    "after_observe",
    "after_fold",
    "before_view_flush",
    "between_view_tables",
    "after_view_flush",
    "after_rejected_append",
    "before_checkpoint",
    "after_checkpoint",
    "after_group_commit",
    "after_index_persist",
];

#[derive(Debug)]
struct Armed {
    name: String,
    passages_left: AtomicU32,
}

fn armed() -> Option<&'static Armed> {
    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    ARMED
        .get_or_init(|| {
            let setting = std::env::var(VARIABLE).ok()?;
            let (name, passage) = match setting.split_once(':') {
                Some((name, passage)) => (name.to_owned(), passage.parse().unwrap_or(1)),
                None => (setting, 1),
            };
            if !POINTS.contains(&name.as_str()) {
                tracing::error!(point = name, "{VARIABLE} names no crash point; ignored");
                return None;
            }
            Some(Armed { name, passages_left: AtomicU32::new(passage) })
        })
        .as_ref()
}

/// Dies here, if this passage of this point was asked for.
pub(crate) fn point(name: &'static str) {
    debug_assert!(POINTS.contains(&name), "{name} is not in POINTS");
    if let Some(armed) = armed()
        && armed.name == name
        && armed.passages_left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        tracing::error!(point = name, "aborting as {VARIABLE} asks");
        std::process::abort();
    }
}
