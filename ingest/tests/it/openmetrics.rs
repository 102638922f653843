//! A strict reader of what `/metrics` answers: OpenMetrics 1.0 text, and Prometheus' naming.

use std::collections::{BTreeMap, BTreeSet};

use crate::harness::Server;

/// One scrape.
pub(crate) struct Scrape {
    /// Every sample by its series, as it is written.
    samples: BTreeMap<String, f64>,
    /// Every family's type.
    families: BTreeMap<String, String>,
    text: String,
}

impl Scrape {
    pub(crate) async fn of(server: &Server) -> Self {
        let answer = server.get("/metrics").await;
        assert_eq!(answer.status(), 200);
        let content_type = answer.headers()["content-type"].to_str().unwrap().to_owned();
        assert!(content_type.starts_with("application/openmetrics-text; version=1.0.0"));
        Self::parse(answer.text().await.unwrap())
    }

    fn parse(text: String) -> Self {
        let body = text.strip_suffix("# EOF\n").expect("the last line is # EOF");
        let mut scrape =
            Self { samples: BTreeMap::new(), families: BTreeMap::new(), text: String::new() };
        let mut family = String::new();
        let mut described = BTreeSet::new();
        for line in body.split_terminator('\n') {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut parts = comment.splitn(3, ' ');
                let (keyword, name, rest) = (parts.next(), parts.next(), parts.next());
                let (name, rest) = (name.expect(line), rest.expect(line));
                match keyword {
                    Some("HELP") => assert!(described.insert(name.to_owned()), "twice: {line}"),
                    Some("TYPE") => {
                        let known = ["counter", "gauge", "histogram", "info", "unknown"];
                        assert!(known.contains(&rest), "{line}");
                        let twice = scrape.families.insert(name.to_owned(), rest.to_owned());
                        assert_eq!(twice, None, "a family in two places: {line}");
                        name.clone_into(&mut family);
                        check_name(name, rest);
                    }
                    Some("UNIT") => assert!(name.ends_with(&format!("_{rest}")), "{line}"),
                    _ => panic!("neither HELP, TYPE nor UNIT: {line}"),
                }
                continue;
            }
            let (series, value) = line.rsplit_once(' ').expect(line);
            let (name, labels) = split_series(series);
            let suffix = name.strip_prefix(family.as_str()).expect("a sample under its family");
            let fits = match scrape.families[&family].as_str() {
                "counter" => ["_total", "_created"].contains(&suffix),
                "histogram" => ["_bucket", "_sum", "_count"].contains(&suffix),
                _ => suffix.is_empty() || suffix == "_info",
            };
            assert!(fits, "`{suffix}` does not fit the type: {line}");
            assert_eq!(labels.iter().any(|(key, _)| key == "le"), suffix == "_bucket", "{line}");
            let value = value.parse::<f64>().expect(line);
            assert!(value.is_finite() && value >= 0.0, "{line}");
            let twice = scrape.samples.insert(series.to_owned(), value);
            assert_eq!(twice, None, "a series twice: {line}");
        }
        for (name, kind) in &scrape.families {
            assert!(described.contains(name), "{name} has no HELP");
            if kind == "histogram" {
                check_histogram(body, name, &scrape.samples);
            }
        }
        scrape.text = text;
        scrape
    }

    pub(crate) fn value(&self, series: &str) -> u64 {
        let value = self.samples.get(series);
        integer(*value.unwrap_or_else(|| panic!("no {series} in\n{}", self.text)))
    }

    /// The sum over all labels.
    pub(crate) fn sum(&self, name: &str) -> u64 {
        let start = format!("{name}{{");
        let series = self.samples.iter().filter(|(series, _)| series.starts_with(&start));
        let values = series.map(|(_, value)| integer(*value)).collect::<Vec<_>>();
        assert!(!values.is_empty(), "no {name} with labels in\n{}", self.text);
        values.iter().sum()
    }

    pub(crate) fn series(&self) -> BTreeSet<&str> {
        self.samples.keys().map(String::as_str).collect()
    }

    /// What may only rise, fell since `earlier`.
    pub(crate) fn fell_since(&self, earlier: &Self) -> Vec<&str> {
        let rises = |series: &str| {
            let name = series.split('{').next().unwrap();
            ["_total", "_bucket", "_count", "_sum"].iter().any(|suffix| name.ends_with(suffix))
        };
        let fell = self.samples.iter().filter(|(series, value)| {
            rises(series) && earlier.samples.get(*series).is_some_and(|before| before > value)
        });
        fell.map(|(series, _)| series.as_str()).collect()
    }
}

fn integer(value: f64) -> u64 {
    assert_eq!(value.fract(), 0.0);
    value.to_string().parse().unwrap()
}

/// <https://prometheus.io/docs/practices/naming/>: an application's prefix, base units, the unit last.
fn check_name(name: &str, kind: &str) {
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    assert!(name.starts_with("chalkstream_ingest_") && name.chars().all(letters), "{name}");
    for unit in ["ms", "us", "ns", "milliseconds", "minutes", "hours", "kib", "mib", "percent"] {
        assert!(!name.split('_').any(|part| part == unit), "{name}: seconds, bytes and ratios");
    }
    for unit in ["seconds", "bytes"] {
        let last = name.ends_with(&format!("_{unit}"));
        assert!(last || !name.contains(&format!("_{unit}_")), "{name}: the unit comes last");
    }
    assert!(!name.ends_with("_total") && !name.ends_with("_count"), "{name}: {kind}");
    if name.contains("duration") {
        assert!(name.ends_with("_seconds"), "{name}");
    }
}

/// Name and labels, with every quote and escape where it must be.
fn split_series(series: &str) -> (&str, Vec<(String, String)>) {
    let Some((name, rest)) = series.split_once('{') else { return (series, Vec::new()) };
    let mut rest = rest.strip_suffix('}').expect(series);
    let mut labels = Vec::new();
    while !rest.is_empty() {
        let (key, quoted) = rest.split_once("=\"").expect(series);
        assert!(key.chars().all(|c| c.is_ascii_lowercase() || c == '_') && !key.is_empty());
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        let end = loop {
            match chars.next().expect(series) {
                (at, '"') => break at,
                (_, '\\') => match chars.next().expect(series).1 {
                    'n' => value.push('\n'),
                    escaped @ ('"' | '\\') => value.push(escaped),
                    other => panic!("\\{other} in {series}"),
                },
                (_, c) => value.push(c),
            }
        };
        assert!(labels.iter().all(|(known, _)| known != key), "a label twice: {series}");
        labels.push((key.to_owned(), value));
        let after = quoted.split_at(end).1.strip_prefix('"').expect(series);
        rest = after.strip_prefix(',').unwrap_or(after);
        assert!(after.is_empty() || !rest.is_empty() && rest.len() < after.len(), "{series}");
    }
    (name, labels)
}

/// Buckets rise in bound and count, end at infinity, and agree with `_count`.
fn check_histogram(body: &str, name: &str, samples: &BTreeMap<String, f64>) {
    let start = format!("{name}_bucket{{le=\"");
    let buckets = body.lines().filter_map(|line| {
        let (bound, value) = line.strip_prefix(&start)?.split_once("\"} ")?;
        Some((bound.to_owned(), value.parse::<f64>().unwrap()))
    });
    let buckets = buckets.collect::<Vec<_>>();
    let bounds = buckets.iter().map(|(bound, _)| bound.parse::<f64>().unwrap()).collect::<Vec<_>>();
    assert!(bounds.len() > 5 && bounds.is_sorted_by(|a, b| a < b), "{name}: {bounds:?}");
    assert!(buckets.is_sorted_by_key(|(_, count)| *count), "{name}: {buckets:?}");
    let (last, count) = buckets.last().unwrap();
    assert_eq!(last, "+Inf", "{name}");
    assert_eq!(samples[&format!("{name}_count")], *count, "{name}");
    assert!(samples.contains_key(&format!("{name}_sum")), "{name}");
}
