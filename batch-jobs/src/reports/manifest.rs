//! What a report is, beside its SQL: title, parameters, columns.
//!
//! A report is two files in `sql/reports`, `<name>.sql` and `<name>.toml`, and one line in
//! [`REPORTS`].

use serde::{Deserialize, Serialize};

/// A report as built in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    pub(crate) name: &'static str,
    pub(crate) sql: &'static str,
    manifest: &'static str,
}

macro_rules! reports {
    ($($name:literal),* $(,)?) => {
        /// Every report, by name.
        pub(crate) const REPORTS: &[Report] = &[$(Report {
            name: $name,
            sql: include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"), "/../sql/reports/", $name, ".sql"
            )),
            manifest: include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"), "/../sql/reports/", $name, ".toml"
            )),
        }),*];
    };
}

reports! {
    "classroom-engagement",
    "student-performance",
}

/// The relation `interactions`, from which engagement scores are made.
pub(crate) const INTERACTIONS: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../sql/reports/views/interactions.sql"));

impl Report {
    pub(crate) fn named(name: &str) -> Option<Self> {
        REPORTS.iter().copied().find(|report| report.name == name)
    }

    pub(crate) fn manifest(&self) -> Result<Manifest, toml::de::Error> {
        let parsed: ManifestFile = toml::from_str(self.manifest)?;
        Ok(Manifest {
            name: self.name.to_owned(),
            title: parsed.title,
            description: parsed.description,
            parameters: parsed.parameters,
            columns: parsed.columns,
        })
    }

    /// Names the SQL and everything it is made from, so that two runs can be compared.
    pub(crate) fn sql_hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for text in [self.sql, INTERACTIONS] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ManifestFile {
    title: String,
    description: String,
    parameters: Vec<Parameter>,
    columns: Vec<ReportColumn>,
}

/// What a report is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Manifest {
    /// Its name on the command line and in file names.
    pub name: String,
    /// Its title for people.
    pub title: String,
    /// What one row is and what is left out.
    pub description: String,
    /// What it asks for.
    pub parameters: Vec<Parameter>,
    /// Its columns, in their order.
    pub columns: Vec<ReportColumn>,
}

/// A parameter of a report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// What it selects.
    pub meaning: String,
    /// Whether it must be given.
    pub required: bool,
}

/// A column of a report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportColumn {
    /// Its name: the header in every format.
    pub name: String,
    /// How its cells are typed and shown.
    pub kind: CellKind,
    /// The unit of its numbers.
    #[serde(default)]
    pub unit: Option<String>,
    /// What it says.
    pub meaning: String,
}

/// How the cells of a column are typed and shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CellKind {
    /// Text.
    Text,
    /// A whole number.
    Count,
    /// A number between 0 and 1.
    Share,
    /// Any other number.
    Number,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_manifest_is_complete_and_sorted_by_name() {
        let names: Vec<_> = REPORTS.iter().map(|report| report.name).collect();
        assert!(names.is_sorted(), "{names:?}");
        for report in REPORTS {
            let manifest = report.manifest().unwrap();
            for parameter in ["school", "from", "to"] {
                assert!(
                    manifest.parameters.iter().any(|p| p.name == parameter && p.required),
                    "{} does not require {parameter}",
                    report.name
                );
            }
            for parameter in &manifest.parameters {
                assert!(!parameter.meaning.is_empty());
            }
            for column in &manifest.columns {
                assert!(!column.meaning.is_empty(), "{}.{}", report.name, column.name);
                assert!(
                    column.kind == CellKind::Text || column.unit.is_some(),
                    "{}.{} has no unit",
                    report.name,
                    column.name
                );
            }
        }
    }

    #[test]
    fn student_performance_has_exactly_the_columns_promised() {
        let manifest = Report::named("student-performance").unwrap().manifest().unwrap();
        let names: Vec<_> = manifest.columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(
            names.join(" "),
            "user_id course_id attempts correct_count accuracy mean_time_ms quizzes \
             mean_quiz_score skills_mastered skills_in_progress class_mean_accuracy active_days \
             engagement_score"
        );
    }
}
