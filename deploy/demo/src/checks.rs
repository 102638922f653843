//! The demo's figures: each is printed beside what the data alone says it must be.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Collects checks, prints each, and fails at the end if any was off.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    failed: u32,
    made: u32,
}

impl Checks {
    /// Both figures must be the same.
    pub(crate) fn equal(&mut self, what: &str, found: f64, expected: f64) {
        self.near(what, found, expected, 0.0);
    }

    /// The figures may differ by `tolerance`.
    pub(crate) fn near(&mut self, what: &str, found: f64, expected: f64, tolerance: f64) {
        let good = (found - expected).abs() <= tolerance;
        self.note(good, &format!("{what}: {found} (expected {expected})"));
    }

    /// The figure must be above zero.
    pub(crate) fn positive(&mut self, what: &str, found: f64) {
        self.note(found > 0.0, &format!("{what}: {found} (expected more than 0)"));
    }

    fn note(&mut self, good: bool, line: &str) {
        self.made += 1;
        self.failed += u32::from(!good);
        crate::say(&format!("  {} {line}", if good { "ok  " } else { "OFF " }));
    }

    /// The number of checks made, or an error if one was off.
    pub(crate) fn finish(self) -> Result<u32> {
        if self.failed > 0 {
            bail!("{} of {} figures are off", self.failed, self.made);
        }
        Ok(self.made)
    }
}

/// Rows that the Delta table in `folder` holds, summed over the files its log names as live.
pub(crate) fn delta_rows(folder: &Path) -> Result<u64> {
    let mut live = std::collections::BTreeMap::new();
    let mut commits: Vec<_> = std::fs::read_dir(folder.join("_delta_log"))
        .with_context(|| format!("{} is no Delta table", folder.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    commits.sort();
    for commit in commits {
        for line in std::fs::read_to_string(&commit)?.lines() {
            let action: Value = serde_json::from_str(line)?;
            if let Some(add) = action.get("add") {
                let stats = add["stats"].as_str().context("an added file has statistics")?;
                let stats: Value = serde_json::from_str(stats)?;
                let rows = stats["numRecords"].as_u64().context("numRecords")?;
                live.insert(add["path"].to_string(), rows);
            } else if let Some(remove) = action.get("remove") {
                live.remove(&remove["path"].to_string());
            }
        }
    }
    Ok(live.values().sum())
}
