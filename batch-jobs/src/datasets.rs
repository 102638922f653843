//! Training datasets from the lake: reproducible and pseudonymised.
//!
//! In: a version of the lake, a school or all, a seed. Out: files whose bytes depend on these
//! alone, and `meta.json` that names them.
//! Always true: learners appear under a pseudonym made from the seed, the school and the user;
//! nothing in the files names a person. Whoever knows the seed and an id can make the pseudonym
//! again, so a seed is to be kept like the ids themselves.
//! Not here: what the formats look like inside ([`pykt`]).

mod pykt;

use std::collections::BTreeSet;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, StringBuilder};
use arrow::datatypes::DataType;
use chalkstream_schemas::{Epoch, SchoolId, Timestamp};
use datafusion::error::DataFusionError;
use datafusion::functions::expr_fn::coalesce;
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, cast, create_udf};
use datafusion::prelude::{SessionContext, col, lit};
use futures::TryStreamExt;
use serde::Serialize;

use self::pykt::{Answer, Counts, LearnerWriter, Seed};
use crate::lake::reading::{self, Columns, RowError, plain};
use crate::lake::{self, Lake};
use crate::replay::{self, Moment};

/// Folds of every dataset.
const FOLDS: usize = 5;

/// A kind of dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DatasetKind {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is.
    pub description: &'static str,
    /// The files it has.
    pub files: &'static [&'static str],
}

const KINDS: &[DatasetKind] = &[DatasetKind {
    name: "pykt",
    description: "graded answers of every learner in log order, as pyKT reads them, with five folds",
    files: &["data.txt", "folds.csv", "meta.json"],
}];

/// Every kind of dataset.
#[must_use]
pub const fn list() -> &'static [DatasetKind] {
    KINDS
}

/// What to build.
#[derive(Clone, Debug)]
pub struct DatasetRequest {
    /// The kind's name.
    pub dataset: String,
    /// Only this school.
    pub school: Option<SchoolId>,
    /// The folder to write to; it is made where it is missing.
    pub out: PathBuf,
    /// What pseudonyms and folds are made from.
    pub seed: u64,
    /// A version of the lake's `events`, or the newest.
    pub lake_version: Option<u64>,
    /// The epoch whose positions count.
    pub epoch: Epoch,
}

/// What was built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DatasetBuild {
    /// The files written.
    pub files: Vec<PathBuf>,
    /// The version of the lake's `events` that they come from.
    pub lake_version: u64,
    /// The seed.
    pub seed: u64,
}

/// What `meta.json` says; nothing in it depends on when or where it was made.
#[derive(Debug, Serialize)]
struct Meta<'a> {
    dataset: &'a str,
    school: Option<&'a str>,
    lake_version: u64,
    seed: u64,
    folds: usize,
    data_as_of: Option<Timestamp>,
    #[serde(flatten)]
    counts: Counts,
    files: &'a [&'a str],
    id_escape: &'a str,
}

/// Why a dataset was not built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such kind.
    #[error("there is no dataset {name:?}; there is pykt")]
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// The lake failed.
    #[error(transparent)]
    Lake(#[from] lake::Error),
    /// The lake could not be read.
    #[error(transparent)]
    Replay(#[from] replay::Error),
    /// Two learners would share a pseudonym.
    #[error("two learners have the pseudonym {pseudonym} under the seed {seed}")]
    Collision {
        /// The pseudonym.
        pseudonym: String,
        /// The seed.
        seed: u64,
    },
    /// A file could not be written.
    #[error("could not write {}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Error {
    /// Whether the person asked for what cannot be: exit code 2.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        match self {
            Self::Unknown { .. } => true,
            Self::Lake(_) | Self::Replay(_) | Self::Collision { .. } | Self::Write { .. } => false,
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unknown { .. } => Some("`chalkstream dataset list` describes them"),
            Self::Lake(error) | Self::Replay(replay::Error::Lake(error)) => error.hint(),
            Self::Replay(_) => None,
            Self::Collision { .. } => Some("choose another --seed"),
            Self::Write { .. } => Some("choose another folder with --out, or make room"),
        }
    }
}

/// Builds a dataset.
pub async fn build(lake: &Lake, request: &DatasetRequest) -> Result<DatasetBuild, Error> {
    let kind = KINDS.iter().find(|kind| kind.name == request.dataset);
    let kind = kind.ok_or_else(|| Error::Unknown { name: request.dataset.clone() })?;
    let session = reading::session().map_err(replay::Error::from)?;
    let moment = Moment::open(lake, request.lake_version, request.epoch, &session).await?;
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source| Error::Write { path, source }
    };
    std::fs::create_dir_all(&request.out).map_err(failed(&request.out))?;
    let files: Vec<_> = kind.files.iter().map(|name| request.out.join(name)).collect();
    let [data, folds, meta] = files.as_slice() else {
        unreachable!("the one kind has three files");
    };
    let seed = Seed::new(request.seed);
    let (uids, counts) = write_answers(&session, &moment, request, &seed, data).await?;
    write_folds(&uids, &seed.folds(&uids, FOLDS), folds).map_err(failed(folds))?;
    let described = Meta {
        dataset: kind.name,
        school: request.school.as_ref().map(SchoolId::as_str),
        lake_version: moment.version,
        seed: request.seed,
        folds: FOLDS,
        data_as_of: moment.data_as_of(request.school.as_ref(), &session).await?,
        counts,
        files: kind.files,
        id_escape: "percent-encoded: % , white space, _ in concepts, N before A",
    };
    let json = serde_json::to_string_pretty(&described).map_err(std::io::Error::other);
    json.and_then(|json| replace(meta, (json + "\n").as_bytes())).map_err(failed(meta))?;
    let lake_version = moment.version;
    Ok(DatasetBuild { files, lake_version, seed: request.seed })
}

/// Writes the answers learner by learner and returns the learners' pseudonyms in that order.
async fn write_answers(
    session: &SessionContext,
    moment: &Moment,
    request: &DatasetRequest,
    seed: &Seed,
    path: &Path,
) -> Result<(Vec<String>, Counts), Error> {
    let failed = |source| Error::Write { path: path.to_path_buf(), source };
    let mut batches = answers(session, moment, request, seed).await.map_err(replay::Error::from)?;
    let part = path.with_extension("part");
    let file = std::fs::File::create(&part).map_err(failed)?;
    let mut writer = LearnerWriter::new(BufWriter::new(file));
    let mut uids: Vec<String> = Vec::new();
    let mut current: Option<(String, String, String)> = None;
    while let Some(batch) = batches.try_next().await.map_err(replay::Error::from)? {
        let rows = Rows::of(&batch).map_err(replay::Error::from)?;
        for row in 0..batch.num_rows() {
            let learner = rows.learner(row).map_err(replay::Error::from)?;
            if current.as_ref() != Some(&learner) {
                if let Some((uid, ..)) = current.take() {
                    writer.finish_learner(&uid).map_err(failed)?;
                }
                if uids.last() == Some(&learner.0) {
                    let pseudonym = learner.0;
                    return Err(Error::Collision { pseudonym, seed: request.seed });
                }
                uids.push(learner.0.clone());
                current = Some(learner);
            }
            writer.answer(rows.answer(row).map_err(replay::Error::from)?);
        }
    }
    if let Some((uid, ..)) = current {
        writer.finish_learner(&uid).map_err(failed)?;
    }
    let (out, counts) = writer.into_inner().map_err(failed)?;
    let file = out.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)?;
    std::fs::rename(&part, path).map_err(failed)?;
    Ok((uids, counts))
}

/// The graded answers of learners, by pseudonym and then in log order. Sorting spills to disk.
async fn answers(
    session: &SessionContext,
    moment: &Moment,
    request: &DatasetRequest,
    seed: &Seed,
) -> Result<datafusion::execution::SendableRecordBatchStream, DataFusionError> {
    // The rule of `chalkstream_core::fold::graded_answer`, over the lake's columns.
    let mut graded = col("type")
        .eq(lit("answer_submitted"))
        .and(col("user_role").eq(lit("student")))
        .and(coalesce(vec![col("graded"), lit(true)]))
        .and(col("correct").is_not_null());
    if let Some(school) = &request.school {
        graded = graded.and(col("school_id").eq(lit(school.as_str())));
    }
    let text_list =
        DataType::List(Arc::new(arrow::datatypes::Field::new("element", DataType::Utf8, true)));
    let uid = pseudonym(seed).call(vec![plain("school_id"), plain("user_id")]).alias("uid");
    reading::frame(&moment.events, session)
        .await?
        .filter(graded)?
        .select(vec![
            uid,
            plain("school_id"),
            plain("user_id"),
            plain("log_partition"),
            plain("log_offset"),
            plain("item_id"),
            cast(col("skill_ids"), text_list).alias("skill_ids"),
            col("correct"),
            plain("event_time"),
            cast(col("time_taken_ms"), DataType::Int64).alias("time_taken_ms"),
        ])?
        .sort(
            ["uid", "school_id", "user_id", "log_partition", "log_offset"]
                .map(|name| col(name).sort(true, false))
                .to_vec(),
        )?
        .execute_stream()
        .await
}

/// The SQL function that gives a learner's pseudonym.
fn pseudonym(seed: &Seed) -> ScalarUDF {
    let seed = seed.clone();
    let apply = move |values: &[ColumnarValue]| {
        let arrays = ColumnarValue::values_to_arrays(values)?;
        let [schools, users] = arrays.as_slice() else {
            return Err(DataFusionError::Execution("school and user are expected".to_owned()));
        };
        let (schools, users) = (schools.as_string::<i32>(), users.as_string::<i32>());
        let mut names = StringBuilder::new();
        for (school, user) in schools.iter().zip(users) {
            names
                .append_option(school.zip(user).map(|(school, user)| seed.pseudonym(school, user)));
        }
        Ok(ColumnarValue::Array(Arc::new(names.finish())))
    };
    create_udf(
        "pseudonym",
        vec![DataType::Utf8, DataType::Utf8],
        DataType::Utf8,
        Volatility::Immutable,
        Arc::new(apply),
    )
}

/// The columns of a batch of answers.
struct Rows<'a> {
    uids: reading::Texts<'a>,
    schools: reading::Texts<'a>,
    users: reading::Texts<'a>,
    items: reading::Texts<'a>,
    skills: &'a arrow::array::ListArray,
    correct: &'a arrow::array::BooleanArray,
    times: &'a arrow::array::TimestampMicrosecondArray,
    taken: &'a arrow::array::Int64Array,
}

impl<'a> Rows<'a> {
    fn of(batch: &'a RecordBatch) -> Result<Self, RowError> {
        let columns = Columns::new(batch);
        Ok(Self {
            uids: columns.texts("uid")?,
            schools: columns.texts("school_id")?,
            users: columns.texts("user_id")?,
            items: columns.texts("item_id")?,
            skills: columns
                .column("skill_ids")?
                .as_list_opt()
                .ok_or(RowError { column: "skill_ids" })?,
            correct: columns
                .column("correct")?
                .as_boolean_opt()
                .ok_or(RowError { column: "correct" })?,
            times: columns.times("event_time")?,
            taken: columns.integers("time_taken_ms")?,
        })
    }

    /// Pseudonym, school and user.
    fn learner(&self, row: usize) -> Result<(String, String, String), RowError> {
        let owned = |texts: &reading::Texts<'_>| texts.required(row).map(str::to_owned);
        Ok((owned(&self.uids)?, owned(&self.schools)?, owned(&self.users)?))
    }

    fn answer(&self, row: usize) -> Result<Answer, RowError> {
        let skills = self.skills.value(row);
        let mut seen = BTreeSet::new();
        // A skill named twice in an answer counts once, as in the folds.
        let skill_ids = skills
            .as_string_opt::<i32>()
            .ok_or(RowError { column: "skill_ids" })?
            .iter()
            .flatten()
            .filter(|skill| seen.insert((*skill).to_owned()))
            .map(str::to_owned)
            .collect();
        let taken = (!self.taken.is_null(row)).then(|| self.taken.value(row));
        Ok(Answer {
            item_id: self.items.required(row)?.to_owned(),
            skill_ids,
            correct: self.correct.value(row),
            event_time_ms: reading::time_of(self.times, row, "event_time")?.as_ms(),
            time_taken_ms: taken.and_then(|ms| u64::try_from(ms).ok()),
        })
    }
}

fn write_folds(uids: &[String], folds: &[usize], path: &Path) -> std::io::Result<()> {
    let mut csv = csv::Writer::from_writer(Vec::new());
    csv.write_record(["user_id", "fold"])?;
    for (uid, fold) in uids.iter().zip(folds) {
        csv.write_record([uid, &fold.to_string()])?;
    }
    replace(path, &csv.into_inner().map_err(|error| error.into_error())?)
}

/// Puts a file in its place when it is complete.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let part = path.with_extension("part");
    let mut file = std::fs::File::create(&part)?;
    std::io::Write::write_all(&mut file, bytes)?;
    file.sync_all()?;
    std::fs::rename(part, path)
}
