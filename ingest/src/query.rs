//! The query string of a request that brings events.
//!
//! In: the query as it was sent. Out: a [`Query`], or a problem that names the parameter at fault.
//! Always true: what is not known is refused, not ignored: a parameter of a newer version may mean
//! that nothing must be stored; no value ever reaches a message, because one of them is a key.

use std::borrow::Cow;
use std::fmt;

use chalkstream_access::{Problem, ProblemKind, printable};
use url::form_urlencoded;

use crate::intake::Wants;

/// What a query asks for.
#[derive(Default)]
pub(crate) struct Query {
    pub(crate) wants: Wants,
    /// The publishable key of a browser's beacon, which can send no header.
    pub(crate) key: Option<String>,
}

impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key.as_ref().map(|_secret| "***");
        f.debug_struct("Query").field("wants", &self.wants).field("key", &key).finish()
    }
}

impl Query {
    /// Reads a query string.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, Problem> {
        let mut query = Self::default();
        let mut seen = Vec::<Cow<'_, str>>::new();
        for (name, value) in form_urlencoded::parse(text.unwrap_or_default().as_bytes()) {
            match (&*name, &*value) {
                ("results", "all") => query.wants.name_all = true,
                ("validate", "true") => query.wants.validate = true,
                ("validate", "false") => {}
                ("key", key) if !key.is_empty() => query.key = Some(key.to_owned()),
                _ => return Err(not_understood(&name)),
            }
            if seen.contains(&name) {
                return Err(broken(format!("`{name}` is given twice; send it once")));
            }
            seen.push(name);
        }
        Ok(query)
    }
}

fn not_understood(name: &str) -> Problem {
    broken(format!(
        "`{}` is not understood as it stands; there are `results=all`, `validate=true`, and `key=<publishable key>` for browsers' beacons",
        printable(name)
    ))
}

fn broken(detail: String) -> Problem {
    Problem::new(ProblemKind::BrokenQuery, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, name_all: bool, validate: bool, key: Option<&str>) {
        let query = Query::parse(Some(text)).unwrap();
        assert_eq!(query.wants, Wants { name_all, validate }, "{text}");
        assert_eq!(query.key.as_deref(), key, "{text}");
        assert!(!format!("{query:?}").contains("csk"), "{query:?}");
    }

    #[test]
    fn a_query_asks_for_what_is_documented() {
        assert_eq!(Query::parse(None).unwrap().wants, Wants::default());
        check("", false, false, None);
        check("results=all", true, false, None);
        check("validate=true&results=all", true, true, None);
        check("validate=false", false, false, None);
        check("key=csk%5Fx&&results=all", true, false, Some("csk_x"));
    }

    #[test]
    fn what_is_not_understood_is_refused_without_its_value() {
        for text in [
            "results=some",
            "results",
            "validate=yes",
            "validate",
            "key=",
            "token=csk_secret",
            "results=all&csk_secret2=1&x=csk_secret",
            "key=csk_secret&key=csk_secret",
            "results=all&results=all",
        ] {
            let problem = Query::parse(Some(text)).unwrap_err();
            assert_eq!(problem.kind(), ProblemKind::BrokenQuery, "{text}");
            assert!(!format!("{problem:?}").contains("csk_secret\""), "{problem:?}");
            assert!(!format!("{problem:?}").contains("=csk"), "{problem:?}");
        }
    }
}
