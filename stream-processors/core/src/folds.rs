//! The folds, one file each: key, state, row.

pub mod activity_quarter_hourly;
pub mod attempts;
pub mod events;
pub mod ingest_outcomes;
pub mod item_stats;
pub mod learner_engagement_daily;
pub mod rejected_events;
pub mod sessions;
pub mod skill_mastery;
