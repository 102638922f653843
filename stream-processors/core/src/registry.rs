//! Every fold, one line each.

use crate::codec::{DecodeError, Decoder, Encoder};
use crate::fold::{AttemptDraft, Input, LearnerFold, Owner, SharedFold, Texts};
use crate::folds::{
    activity_quarter_hourly::Activity, item_stats::ItemStats,
    learner_engagement_daily::EngagementDaily, sessions::Sessions, skill_mastery::SkillMastery,
};
use crate::partition::StateRow;
use crate::row::RowSink;
use crate::shared::{Shared, SharedInput};

macro_rules! learner_folds {
    ($($field:ident: $fold:ty;)*) => {
        /// One learner's state, a part for each fold.
        #[derive(Debug, Default)]
        pub(crate) struct LearnerFolds {
            $($field: $fold,)*
        }

        impl LearnerFolds {
            pub(crate) fn apply<S: RowSink>(
                &mut self,
                input: &mut Input<'_>,
                attempts: &mut [AttemptDraft],
                rows: &mut S,
            ) {
                $(self.$field.apply(input, attempts, rows);)*
            }

            pub(crate) fn drain<S: RowSink>(&mut self, owner: &Owner<'_>, rows: &mut S) {
                $(self.$field.drain(owner, rows);)*
            }

            pub(crate) fn encode(&self, texts: &Texts, out: &mut Encoder) {
                $(
                    out.byte(<$fold>::FORMAT);
                    self.$field.encode(texts, out);
                )*
            }

            pub(crate) fn decode(
                input: &mut Decoder<'_>,
                texts: &mut Texts,
            ) -> Result<Self, DecodeError> {
                Ok(Self {$(
                    $field: {
                        let (found, expected) = (input.byte()?, <$fold>::FORMAT);
                        if found != expected {
                            return Err(DecodeError::Format { what: <$fold>::NAME, found, expected });
                        }
                        <$fold>::decode(input, texts)?
                    },
                )*})
            }
        }
    };
}

macro_rules! shared_folds {
    ($($field:ident: $fold:ty;)*) => {
        /// The states of all keys that learners share.
        #[derive(Debug, Default)]
        pub(crate) struct SharedFolds {
            $($field: Shared<$fold>,)*
        }

        impl SharedFolds {
            pub(crate) fn apply<S: RowSink>(&mut self, input: &SharedInput<'_>, rows: &mut S) {
                $(self.$field.apply(input, rows);)*
            }

            pub(crate) fn drain_rows<S: RowSink>(&mut self, owner: &Owner<'_>, rows: &mut S) {
                $(self.$field.drain_rows(owner, rows);)*
            }

            pub(crate) fn drain_states(&mut self, owner: &Owner<'_>, states: &mut Vec<StateRow>) {
                $(self.$field.drain_states(owner, states);)*
            }

            /// Takes a stored state of one of these kinds; `false` if it is of none.
            pub(crate) fn restore(
                &mut self,
                row: &StateRow,
                texts: &mut Texts,
            ) -> Result<bool, DecodeError> {
                match &*row.kind {
                    $(<$fold>::KIND => self.$field.restore(row, texts).map(|()| true),)*
                    _ => Ok(false),
                }
            }
        }
    };
}

learner_folds! {
    skill_mastery: SkillMastery;
    sessions: Sessions;
    engagement_daily: EngagementDaily;
    activity: Activity;
}

shared_folds! {
    item_stats: ItemStats;
}
