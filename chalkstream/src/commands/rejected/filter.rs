//! Which rejected events are meant, and the question that finds them in `rejected_events`.
//!
//! Always true: what was typed reaches ClickHouse as parameters, never as text of the query.

use std::str::FromStr;

use chalkstream_schemas::{RejectReason, SchoolId, Timestamp};

use crate::config::Span;
use crate::failure::Advice;
use crate::views::Question;

/// Which rejected events are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub(super) struct Filter {
    /// Only those that were rejected for this reason, such as too_old
    #[arg(long, value_parser = reason)]
    reason: Option<RejectReason>,
    /// Only those received since: a time such as 2026-03-02T09:00:00Z, or so long ago, such as 2h
    #[arg(long, value_name = "TIME")]
    since: Option<Since>,
    /// Only those of this school
    #[arg(long, value_parser = crate::commands::school)]
    school: Option<SchoolId>,
    /// Only those of this type, as it was sent
    #[arg(long = "type", value_name = "TYPE")]
    type_name: Option<String>,
    /// The same as --reason, --since, --school and --type: reason=too_old; may be repeated
    #[arg(long = "filter", value_name = "NAME=VALUE")]
    more: Vec<One>,
}

/// One of the conditions, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum One {
    Reason(RejectReason),
    Since(Since),
    School(SchoolId),
    Type(String),
}

/// From when on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    At(Timestamp),
    Ago(Span),
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(ago) = text.parse() {
            return Ok(Self::Ago(ago));
        }
        Timestamp::parse_rfc3339(text).map(Self::At).map_err(|_no_time| {
            format!("`{text}` is neither a time such as 2026-03-02T09:00:00Z nor a length of time such as 2h or 30m")
        })
    }
}

impl One {
    /// Its name, the condition on a parameter of that name, and the parameter's value.
    fn condition(self, now: Timestamp) -> (&'static str, &'static str, String) {
        match self {
            Self::Reason(reason) => {
                ("reason", "reason = {reason:String}", reason.as_str().to_owned())
            }
            Self::School(school) => ("school", "school_id = {school:String}", school.to_string()),
            Self::Type(type_name) => ("type", "type = {type:String}", type_name),
            Self::Since(since) => {
                let from = match since {
                    Since::At(time) => time,
                    Since::Ago(span) => now.minus(span.get()),
                };
                let condition = "toUnixTimestamp64Milli(received_at) >= {since:Int64}";
                ("since", condition, from.as_ms().to_string())
            }
        }
    }
}

impl FromStr for One {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("reason", value)) => reason(value).map(Self::Reason),
            Some(("since", value)) => value.parse().map(Self::Since),
            Some(("school", value)) => crate::commands::school(value).map(Self::School),
            Some(("type", value)) => Ok(Self::Type(value.to_owned())),
            _ => Err(format!("`{text}` is none of reason=…, since=…, school=… and type=…")),
        }
    }
}

fn reason(text: &str) -> Result<RejectReason, String> {
    RejectReason::from_name(text).ok_or_else(|| {
        let known: Vec<_> = RejectReason::ALL.iter().map(|reason| reason.as_str()).collect();
        format!("there is no reason `{text}`; the reasons are {}", known.join(", "))
    })
}

/// Which of the rows that fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    /// The newest ones; those that were replayed too, if wanted.
    Newest { limit: u32, replayed: bool },
    /// All that are open, school by school, in the order in which they came.
    AllOpen,
}

const COLUMNS: &str = "school_id, reason, field, message, app, type, key_id, \
     toUnixTimestamp64Milli(received_at) AS received_ms, \
     toUnixTimestamp64Milli(replayed_at) AS replayed_ms, base64Encode(raw) AS raw_base64";

impl Filter {
    /// Whether this reason was asked for by its name.
    pub(super) fn is_for(&self, reason: RejectReason) -> bool {
        self.reason == Some(reason) || self.more.contains(&One::Reason(reason))
    }

    /// The question whose answer is one [`crate::control::RejectedRow`] a line.
    pub(super) fn question(&self, rows: Rows, now: Timestamp) -> Result<Question, Advice> {
        let flags = [
            self.reason.map(One::Reason),
            self.since.map(One::Since),
            self.school.clone().map(One::School),
            self.type_name.clone().map(One::Type),
        ];
        let mut conditions = Vec::new();
        let mut parameters: Vec<(&'static str, String)> = Vec::new();
        for one in flags.into_iter().flatten().chain(self.more.iter().cloned()) {
            let (name, condition, value) = one.condition(now);
            if parameters.iter().any(|(known, _)| *known == name) {
                let what = format!("the condition `{name}` is given twice");
                return Err(Advice::usage(what, "give each condition once; all of them must hold"));
            }
            conditions.push(condition.to_owned());
            parameters.push((name, value));
        }
        let order = match rows {
            Rows::Newest { limit, replayed } => {
                if !replayed {
                    conditions.push("replayed_at IS NULL".to_owned());
                }
                format!("received_at DESC, school_id, raw LIMIT {limit}")
            }
            Rows::AllOpen => {
                conditions.push("replayed_at IS NULL".to_owned());
                "school_id, received_at, raw".to_owned()
            }
        };
        let conditions = match conditions.is_empty() {
            true => "1".to_owned(),
            false => conditions.join(" AND "),
        };
        let query =
            format!("SELECT {COLUMNS} FROM rejected_events WHERE {conditions} ORDER BY {order}");
        Ok(Question { query, parameters, format: "JSONEachRow", whole: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_can_be_given_in_two_ways() {
        let now = Timestamp::from_ms(10_000_000);
        let flags = Filter {
            since: Some("2h".parse().unwrap()),
            reason: Some(RejectReason::TooOld),
            ..Filter::default()
        };
        let more = ["reason=too_old", "since=2h"].map(|one| one.parse().unwrap()).to_vec();
        let named = Filter { more, ..Filter::default() };
        let asked = flags.question(Rows::AllOpen, now).unwrap();
        assert_eq!(named.question(Rows::AllOpen, now).unwrap().query, asked.query);
        let expected = [("reason", "too_old".to_owned()), ("since", "2800000".to_owned())];
        assert_eq!(asked.parameters, expected);
        let conditions = "reason = {reason:String} AND toUnixTimestamp64Milli(received_at) >= \
                          {since:Int64} AND replayed_at IS NULL";
        assert!(asked.query.contains(conditions), "{}", asked.query);
        let both = Filter { more: named.more, ..flags };
        let error = both.question(Rows::AllOpen, now).unwrap_err().to_string();
        assert!(error.contains("`reason` is given twice"), "{error}");
    }

    #[test]
    fn what_is_typed_never_becomes_a_part_of_the_query() {
        let evil = "x' OR 1=1 --";
        let filter = Filter { type_name: Some(evil.to_owned()), ..Filter::default() };
        let rows = Rows::Newest { limit: 5, replayed: true };
        let asked = filter.question(rows, Timestamp::MIN).unwrap();
        assert!(!asked.query.contains("OR 1") && !asked.query.contains("replayed_at IS"));
        assert!(asked.query.ends_with(" LIMIT 5"), "{}", asked.query);
        assert_eq!(asked.parameters, [("type", evil.to_owned())]);
    }

    #[test]
    fn what_is_no_condition_is_said() {
        for (text, part) in [
            ("reason=late", "too_old"),
            ("since=soon", "2h"),
            ("colour=red", "school="),
            ("reason", "type="),
        ] {
            let error = text.parse::<One>().unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(
            "2026-03-02T10:00:00Z".parse(),
            Ok(Since::At(Timestamp::from_ms(1_772_445_600_000)))
        );
    }
}
