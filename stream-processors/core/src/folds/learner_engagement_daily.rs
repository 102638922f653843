//! `learner_engagement_daily`: what a learner did in a course on a day, in the school's zone.
//!
//! In: every event of a learner (role student). Out: one row per course and day touched; the course
//! is '' where the event has none.
//! A quiz counts once: at its `quiz_attempt`, else at its `quiz_complete`, whichever the log has
//! first; its seconds are those of the first of the two that has a duration. The two belong
//! together by quiz and attempt id, for [`QUIZ_OPEN_MS`].
//! Active time is that of the course's own events on that day ([`crate::spans`]).
//! Always true: every number is an integer (milliseconds, weights in tenths), so that partials add
//! up exactly. A day that left the state ([`crate::entries`]) and gets a late event begins a new
//! partial, with its own `part`.

use chalkstream_schemas::{Epoch, LogOffset, PartitionId, Payload, RowVersion, Timestamp};

use crate::codec::{DecodeError, Decoder, Encoder};
use crate::entries::{Passing, Recent};
use crate::fold::{AttemptDraft, Input, LearnerFold, Owner, Texts, whole_ms};
use crate::row::{Day, RowSink, table_row};
use crate::spans::Spans;
use crate::symbols::Symbol;

/// So long a quiz waits for its other event: 14 days.
pub const QUIZ_OPEN_MS: i64 = 14 * 86_400_000;

table_row! {
    /// One learner, course and day.
    pub struct EngagementRow<'a> in "learner_engagement_daily_state" {
        /// The folding.
        epoch: Epoch,
        /// The school.
        school_id: &'a str,
        /// The learner.
        user_id: &'a str,
        /// The course, or the empty text.
        course_id: &'a str,
        /// The day in the school's zone.
        day: Day,
        /// The learner's partition.
        log_partition: PartitionId,
        /// The offset of the first record of this partial.
        part: LogOffset,
        /// Sign-ins.
        logins: u64,
        /// Pages viewed.
        page_views: u64,
        /// Videos watched.
        videos: u64,
        /// Quizzes.
        quizzes: u64,
        /// Assignments handed in.
        assignments: u64,
        /// Contributions to discussions.
        discussions: u64,
        /// Interactions with peers.
        peer_interactions: u64,
        /// Resources opened.
        resources: u64,
        /// Lessons begun and finished.
        lessons: u64,
        /// Answers submitted, graded or not.
        answers: u64,
        /// Time on pages.
        page_view_ms: u64,
        /// Time on videos.
        video_ms: u64,
        /// Time on quizzes.
        quiz_ms: u64,
        /// Time on assignments.
        assignment_ms: u64,
        /// Time in discussions.
        discussion_ms: u64,
        /// Time with peers.
        peer_ms: u64,
        /// Time on resources.
        resource_ms: u64,
        /// Time on lessons.
        lesson_ms: u64,
        /// Time on answers.
        answer_ms: u64,
        /// Active time.
        active_ms: u64,
        /// Duration times weight, in tenths of milliseconds.
        engagement_weighted_ms_tenths: u64,
        /// Weights, in tenths.
        engagement_weight_tenths: u64,
        /// Version of the row.
        version: RowVersion,
    }
}

/// What is counted; the numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Metric {
    Logins,
    PageViews,
    Videos,
    Quizzes,
    Assignments,
    Discussions,
    PeerInteractions,
    Resources,
    Lessons,
    Answers,
    PageViewMs,
    VideoMs,
    QuizMs,
    AssignmentMs,
    DiscussionMs,
    PeerMs,
    ResourceMs,
    LessonMs,
    AnswerMs,
    WeightedMs,
    Weight,
}

const METRICS: usize = Metric::Weight as usize + 1;

/// Sums by metric, only those that are not zero: 8 bytes each, the metric in the highest byte.
#[derive(Debug, Default)]
struct Sums(Vec<u64>);

const SUM_BITS: u32 = 56;
const SUM_MAX: u64 = (1 << SUM_BITS) - 1;

impl Sums {
    fn add(&mut self, metric: Metric, amount: u64) {
        if amount == 0 {
            return;
        }
        let tag = metric as u64;
        match self.0.binary_search_by_key(&tag, |packed| packed >> SUM_BITS) {
            Ok(at) => {
                if let Some(packed) = self.0.get_mut(at) {
                    let sum = (*packed & SUM_MAX).saturating_add(amount).min(SUM_MAX);
                    *packed = tag << SUM_BITS | sum;
                }
            }
            Err(at) => {
                self.0.reserve_exact(1);
                self.0.insert(at, tag << SUM_BITS | amount.min(SUM_MAX));
            }
        }
    }

    fn all(&self) -> [u64; METRICS] {
        let mut all = [0; METRICS];
        for packed in &self.0 {
            let tag = usize::try_from(packed >> SUM_BITS).unwrap_or(METRICS);
            if let Some(slot) = all.get_mut(tag) {
                *slot = packed & SUM_MAX;
            }
        }
        all
    }
}

/// A learner's latest days, by course.
#[derive(Debug, Default)]
pub struct EngagementDaily {
    days: Recent<CourseDay>,
    quizzes: Vec<OpenQuiz>,
}

#[derive(Debug)]
struct CourseDay {
    course: Symbol,
    day: Day,
    touched: bool,
    part: LogOffset,
    spans: Spans,
    sums: Sums,
}

impl Passing for CourseDay {
    fn ends_at(&self) -> Timestamp {
        self.spans.end()
    }
}

/// A quiz of which one of the two events was counted and the other may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OpenQuiz {
    /// Which quiz and attempt: a hash, so that a learner with many stays small.
    key: u64,
    at: Timestamp,
    /// Whether `quiz_complete` came first.
    completed: bool,
    /// Whether its seconds are counted.
    timed: bool,
}

/// FNV-1a over quiz and attempt: stored, so it must never change.
fn quiz_key(quiz: &str, attempt: Option<&str>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let separator = [0xff];
    for byte in quiz.bytes().chain(separator).chain(attempt.unwrap_or_default().bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash
}

/// What one event adds.
#[derive(Default)]
struct Interaction {
    count: Option<Metric>,
    time: Option<(Metric, u64)>,
    /// The weight of the engagement score, in tenths.
    weight: Option<u64>,
}

impl EngagementDaily {
    fn interaction(&mut self, payload: &Payload, time: Timestamp) -> Interaction {
        let plain = |metric| Interaction { count: Some(metric), time: None, weight: None };
        let timed = |count, metric, seconds: Option<f64>, weight| Interaction {
            count: Some(count),
            time: seconds.map(|seconds| (metric, whole_ms(seconds))),
            weight,
        };
        match payload {
            Payload::Login => plain(Metric::Logins),
            Payload::PageView(it) => {
                timed(Metric::PageViews, Metric::PageViewMs, it.duration_seconds, None)
            }
            Payload::VideoWatch(it) => {
                timed(Metric::Videos, Metric::VideoMs, Some(it.duration_seconds), Some(10))
            }
            Payload::QuizAttempt(it) => {
                let key = quiz_key(
                    it.quiz_id.as_str(),
                    it.quiz_attempt_id.as_ref().map(|id| id.as_str()),
                );
                self.quiz(key, time, false, it.duration_seconds)
            }
            Payload::QuizComplete(it) => {
                let key = quiz_key(
                    it.quiz_id.as_str(),
                    it.quiz_attempt_id.as_ref().map(|id| id.as_str()),
                );
                self.quiz(key, time, true, it.duration_seconds)
            }
            Payload::AssignmentSubmit(it) => {
                timed(Metric::Assignments, Metric::AssignmentMs, it.duration_seconds, Some(40))
            }
            Payload::DiscussionPost(it) => {
                timed(Metric::Discussions, Metric::DiscussionMs, it.duration_seconds, Some(30))
            }
            Payload::PeerInteraction(it) => {
                timed(Metric::PeerInteractions, Metric::PeerMs, it.duration_seconds, Some(25))
            }
            Payload::ResourceAccess(it) => {
                timed(Metric::Resources, Metric::ResourceMs, it.duration_seconds, None)
            }
            Payload::LessonStart(_) => plain(Metric::Lessons),
            Payload::LessonComplete(it) => {
                timed(Metric::Lessons, Metric::LessonMs, it.duration_seconds, None)
            }
            Payload::AnswerSubmitted(it) => Interaction {
                count: Some(Metric::Answers),
                time: it.time_taken_ms.map(|ms| (Metric::AnswerMs, ms)),
                weight: None,
            },
            // They count as presence (active time) alone.
            Payload::Logout
            | Payload::ClassroomJoined
            | Payload::ClassroomLeft
            | Payload::CourseEnrollment(_)
            | Payload::ProgressUpdated(_)
            | Payload::QuizCreated(_)
            | Payload::QuizStarted(_)
            | Payload::QuizEnded(_)
            | Payload::QuestionDisplayed(_)
            | Payload::AnswerGraded(_)
            | Payload::Session(_)
            | Payload::Placement(_)
            | Payload::HelpRequested(_)
            | Payload::ContentRated(_)
            | Payload::ExperimentExposure(_)
            | Payload::RecommendationShown(_)
            | Payload::RecommendationClicked(_)
            | Payload::AppError(_)
            | Payload::Custom(_) => Interaction::default(),
        }
    }

    fn quiz(
        &mut self,
        key: u64,
        at: Timestamp,
        completed: bool,
        seconds: Option<f64>,
    ) -> Interaction {
        let time = seconds.map(|seconds| (Metric::QuizMs, whole_ms(seconds)));
        // The oldest first: the n-th begun and the n-th completed are one, as in the reports' SQL.
        let other = self.quizzes.iter().position(|it| it.key == key && it.completed != completed);
        if let Some(other) = other {
            // The second of the two: counted already, and perhaps timed.
            let other = self.quizzes.remove(other);
            let time = if other.timed { None } else { time };
            return Interaction { count: None, time, weight: time.map(|_| 20) };
        }
        self.quizzes.retain(|it| at.ms_since(it.at) <= QUIZ_OPEN_MS);
        self.quizzes.reserve_exact(1);
        self.quizzes.push(OpenQuiz { key, at, completed, timed: time.is_some() });
        Interaction { count: Some(Metric::Quizzes), time, weight: Some(20) }
    }
}

impl CourseDay {
    fn row<S: RowSink>(&self, owner: &Owner<'_>, rows: &mut S) {
        let all = self.sums.all();
        let sum = |metric: Metric| all.get(metric as usize).copied().unwrap_or(0);
        rows.row(
            owner.at,
            &EngagementRow {
                epoch: owner.epoch,
                school_id: owner.school_id,
                user_id: owner.id,
                course_id: owner.texts.symbols.text(self.course),
                day: self.day,
                log_partition: owner.at.partition,
                part: self.part,
                logins: sum(Metric::Logins),
                page_views: sum(Metric::PageViews),
                videos: sum(Metric::Videos),
                quizzes: sum(Metric::Quizzes),
                assignments: sum(Metric::Assignments),
                discussions: sum(Metric::Discussions),
                peer_interactions: sum(Metric::PeerInteractions),
                resources: sum(Metric::Resources),
                lessons: sum(Metric::Lessons),
                answers: sum(Metric::Answers),
                page_view_ms: sum(Metric::PageViewMs),
                video_ms: sum(Metric::VideoMs),
                quiz_ms: sum(Metric::QuizMs),
                assignment_ms: sum(Metric::AssignmentMs),
                discussion_ms: sum(Metric::DiscussionMs),
                peer_ms: sum(Metric::PeerMs),
                resource_ms: sum(Metric::ResourceMs),
                lesson_ms: sum(Metric::LessonMs),
                answer_ms: sum(Metric::AnswerMs),
                active_ms: self.spans.active_ms(),
                engagement_weighted_ms_tenths: sum(Metric::WeightedMs),
                engagement_weight_tenths: sum(Metric::Weight),
                version: owner.version(),
            },
        );
    }
}

impl LearnerFold for EngagementDaily {
    const FORMAT: u8 = 1;
    const NAME: &'static str = "daily engagement";

    fn apply<S: RowSink>(
        &mut self,
        input: &mut Input<'_>,
        _attempts: &mut [AttemptDraft],
        rows: &mut S,
    ) {
        if !input.is_student() {
            return;
        }
        let (course, time) = (input.course, input.event.event_time);
        let day = input.control.day(input.school, time);
        let interaction = self.interaction(&input.event.payload, time);
        let entry = match self.days.touch(|it| it.course == course && it.day == day) {
            Some(entry) => {
                entry.spans.add(time);
                entry
            }
            None => {
                let new = CourseDay {
                    course,
                    day,
                    touched: true,
                    part: input.at.offset,
                    spans: Spans::at(time),
                    sums: Sums::default(),
                };
                let owner = input.owner();
                self.days.push(new, input.now, |evicted| {
                    if evicted.touched {
                        evicted.row(&owner, rows);
                    }
                })
            }
        };
        entry.touched = true;
        if let Some(metric) = interaction.count {
            entry.sums.add(metric, 1);
        }
        if let Some((metric, ms)) = interaction.time {
            entry.sums.add(metric, ms);
            if let Some(weight) = interaction.weight {
                entry.sums.add(Metric::WeightedMs, ms.saturating_mul(weight));
                entry.sums.add(Metric::Weight, weight);
            }
        }
    }

    fn drain<S: RowSink>(&mut self, owner: &Owner<'_>, rows: &mut S) {
        for entry in &mut self.days.by_touch {
            if std::mem::take(&mut entry.touched) {
                entry.row(owner, rows);
            }
        }
    }

    fn encode(&self, texts: &Texts, out: &mut Encoder) {
        out.count(self.days.by_touch.len());
        for entry in &self.days.by_touch {
            out.str(texts.symbols.text(entry.course));
            out.u32(u32::from(entry.day.0));
            out.offset(entry.part);
            entry.spans.encode(out);
            out.count(entry.sums.0.len());
            entry.sums.0.iter().for_each(|packed| {
                out.u64(packed >> SUM_BITS);
                out.u64(packed & SUM_MAX);
            });
        }
        out.count(self.quizzes.len());
        for quiz in &self.quizzes {
            out.u64(quiz.key);
            out.time(quiz.at);
            out.byte(u8::from(quiz.completed));
            out.byte(u8::from(quiz.timed));
        }
    }

    fn decode(input: &mut Decoder<'_>, texts: &mut Texts) -> Result<Self, DecodeError> {
        let invalid = |what| DecodeError::Invalid { what };
        let mut by_touch = Vec::new();
        for _ in 0..input.count()? {
            let course = texts.symbols.intern(input.str()?);
            let day = u16::try_from(input.u32()?).map_err(|_range| invalid("day"))?;
            let (part, spans) = (input.offset()?, Spans::decode(input)?);
            let mut sums = Vec::new();
            for _ in 0..input.count()? {
                let (tag, sum) = (input.u64()?, input.u64()?);
                let known = usize::try_from(tag).is_ok_and(|tag| tag < METRICS);
                let in_order = sums.last().is_none_or(|last| last >> SUM_BITS < tag);
                if !known || !in_order || sum > SUM_MAX {
                    return Err(invalid("sum"));
                }
                sums.push(tag << SUM_BITS | sum);
            }
            sums.shrink_to_fit();
            let sums = Sums(sums);
            by_touch.push(CourseDay { course, day: Day(day), touched: false, part, spans, sums });
        }
        by_touch.shrink_to_fit();
        let mut quizzes = Vec::new();
        for _ in 0..input.count()? {
            quizzes.push(OpenQuiz {
                key: input.u64()?,
                at: input.time()?,
                completed: input.bool()?,
                timed: input.bool()?,
            });
        }
        quizzes.shrink_to_fit();
        Ok(Self { days: Recent { by_touch }, quizzes })
    }
}

#[cfg(test)]
mod tests;
