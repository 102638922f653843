//! The lake: Delta tables at `<lake.url>/<table>`, on local disk or in an object store.
//!
//! Owns where tables lie, how they are made, and what identity of the log they record.
//! Always true: a table that exists names the log that filled it, and every commit that moves a
//! position ([`tail`]) was made on a snapshot that held the position's old value.
//! Not here: what goes into a table ([`crate::archiver`]), what is computed from it
//! ([`crate::replay`]).

mod local;
pub(crate) mod reading;
mod s3;
pub(crate) mod tables;
pub(crate) mod tail;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chalkstream_event_log::LogIdentity;
use deltalake::errors::DeltaTableError;
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake::kernel::transaction::CommitProperties;
use deltalake::kernel::{StructField, StructType};
use deltalake::logstore::object_store::DynObjectStore;
use deltalake::operations::create::CreateBuilder;
use deltalake::{DeltaTable, DeltaTableBuilder};
use url::Url;

pub use self::tables::LakeTable;

/// Where the lake is.
#[derive(Clone, Debug, Default)]
pub struct LakeOptions {
    /// A local folder, `file://…`, or `s3://bucket/prefix`.
    pub url: String,
    /// Options of the object store, under the names that `object_store` knows.
    pub options: BTreeMap<String, String>,
}

/// What can go wrong with the lake.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The location cannot be used.
    #[error("cannot use {url} as lake: {problem}")]
    Location {
        /// The location as configured.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A table cannot be read or made.
    #[error("cannot {what} the lake's table {table} at {url}")]
    Table {
        /// What was tried.
        what: &'static str,
        /// Name of the table.
        table: &'static str,
        /// Where it lies.
        url: String,
        /// Delta's own error.
        source: Box<DeltaTableError>,
    },
    /// The table does not exist.
    #[error("the lake at {url} has no table {table} yet")]
    Missing {
        /// Name of the table.
        table: &'static str,
        /// The lake.
        url: String,
    },
    /// The table has no such version.
    #[error("the lake's table {table} has no version {version}; its newest is {newest}")]
    NoVersion {
        /// Name of the table.
        table: &'static str,
        /// The version asked for.
        version: u64,
        /// The newest there is.
        newest: u64,
    },
    /// The table was filled from another log.
    #[error(
        "the lake's table {table} at {url} was filled from another log: \
         it records {property} {recorded}, this log has {actual}"
    )]
    OtherLog {
        /// Name of the table.
        table: &'static str,
        /// Where it lies.
        url: String,
        /// The property that differs.
        property: &'static str,
        /// Its value in the table.
        recorded: String,
        /// Its value in this log.
        actual: String,
    },
    /// A stored position is not one.
    #[error("the lake's table {table} records position {position} for {app_id}")]
    Position {
        /// Name of the table.
        table: &'static str,
        /// The transaction's name.
        app_id: String,
        /// The number found.
        position: i64,
    },
}

impl Error {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Location { .. } => {
                Some("set lake.url to a local folder or to s3://bucket/prefix")
            }
            Self::Table { .. } => Some("check that lake.url can be reached and written"),
            Self::Missing { .. } => {
                Some("the archiver makes it: run `chalkstream standalone` or `chalkstream archive`")
            }
            Self::NoVersion { .. } => Some("leave --lake-version out for the newest"),
            Self::OtherLog { .. } => Some(
                "the log was recreated: point log.path or log.brokers at the old one, or lake.url at an empty folder",
            ),
            Self::Position { .. } => {
                Some("the table was written by something else: restore it, or start an empty lake")
            }
        }
    }
}

/// The lake's location, opened. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lake {
    root: Url,
    folder: Option<PathBuf>,
    store: Arc<DynObjectStore>,
}

impl Lake {
    /// Opens the location; makes nothing until the archiver needs a table.
    pub fn open(options: &LakeOptions) -> Result<Self, Error> {
        let refuse = |problem: String| Error::Location { url: options.url.clone(), problem };
        if options.url.is_empty() {
            return Err(refuse("it is empty".to_owned()));
        }
        let folder = match options.url.split_once("://") {
            None => PathBuf::from(&options.url),
            Some(("file", _)) => Url::parse(&options.url)
                .map_err(|error| refuse(error.to_string()))?
                .to_file_path()
                .map_err(|()| refuse("a file URL names a path of this machine".to_owned()))?,
            Some(("s3", _)) => {
                let (root, store) = s3::open(options)?;
                return Ok(Self { root, folder: None, store });
            }
            Some((scheme, _)) => {
                return Err(refuse(format!(
                    "{scheme}:// is not built in; this build knows local folders and s3://"
                )));
            }
        };
        std::fs::create_dir_all(&folder).map_err(|error| refuse(error.to_string()))?;
        let folder = std::fs::canonicalize(&folder).map_err(|error| refuse(error.to_string()))?;
        let root = Url::from_directory_path(&folder)
            .map_err(|()| refuse("the path is not absolute".to_owned()))?;
        Ok(Self { root, folder: Some(folder), store: Arc::new(local::SyncedLocal::new()) })
    }

    /// The lake's location as URL, ending in `/`.
    #[must_use]
    pub fn url(&self) -> &str {
        self.root.as_str()
    }

    /// The folder, where the lake is on local disk.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Where a table lies.
    #[must_use]
    pub fn table_url(&self, table: LakeTable) -> String {
        format!("{}{}", self.root, table.name())
    }

    /// The newest version of the table, if it exists.
    pub async fn newest(&self, table: LakeTable) -> Result<Option<DeltaTable>, Error> {
        let mut opened = self.unloaded(table)?;
        let exists = opened.verify_deltatable_existence().await;
        if !exists.map_err(|source| self.failed("find", table, source))? {
            return Ok(None);
        }
        opened.load().await.map_err(|source| self.failed("read", table, source))?;
        Ok(Some(opened))
    }

    /// The table at a version, or at its newest; an error if there is none.
    pub async fn at(&self, table: LakeTable, version: Option<u64>) -> Result<DeltaTable, Error> {
        let Some(mut opened) = self.newest(table).await? else {
            return Err(Error::Missing { table: table.name(), url: self.root.to_string() });
        };
        let newest = opened.version().unwrap_or_default();
        if let Some(version) = version.filter(|version| *version != newest) {
            if version > newest {
                return Err(Error::NoVersion { table: table.name(), version, newest });
            }
            let loaded = opened.load_version(version).await;
            loaded.map_err(|source| self.failed("read an old version of", table, source))?;
        }
        Ok(opened)
    }

    /// The table, made with the log's identity where it is missing, refused where it names another.
    pub(crate) async fn for_log(
        &self,
        table: LakeTable,
        log: &LogIdentity,
    ) -> Result<DeltaTable, Error> {
        if let Some(opened) = self.newest(table).await? {
            self.check_log(table, &opened, log)?;
            return Ok(opened);
        }
        match self.create(table, identity_properties(log)).await {
            Ok(created) => Ok(created),
            // Another process may have made it since.
            Err(error) => match self.newest(table).await? {
                Some(opened) => {
                    self.check_log(table, &opened, log)?;
                    Ok(opened)
                }
                None => Err(error),
            },
        }
    }

    /// The table, made where it is missing.
    pub(crate) async fn writable(&self, table: LakeTable) -> Result<DeltaTable, Error> {
        if let Some(opened) = self.newest(table).await? {
            return Ok(opened);
        }
        match self.create(table, Vec::new()).await {
            Ok(created) => Ok(created),
            Err(error) => self.newest(table).await?.ok_or(error),
        }
    }

    fn unloaded(&self, table: LakeTable) -> Result<DeltaTable, Error> {
        let url = self.table_url(table);
        let parsed = Url::parse(&url)
            .map_err(|error| Error::Location { url, problem: error.to_string() })?;
        DeltaTableBuilder::from_url(parsed.clone())
            .and_then(|builder| {
                builder.with_storage_backend(Arc::clone(&self.store), parsed).build()
            })
            .map_err(|source| self.failed("open", table, source))
    }

    async fn create(
        &self,
        table: LakeTable,
        identity: Vec<(String, Option<String>)>,
    ) -> Result<DeltaTable, Error> {
        let schema: StructType = table.schema().as_ref().try_into_kernel().map_err(|error| {
            self.failed("make", table, DeltaTableError::SchemaMismatch { msg: format!("{error}") })
        })?;
        let columns: Vec<StructField> = schema.fields().cloned().collect();
        let mut properties = identity;
        properties.push((
            "delta.dataSkippingStatsColumns".to_owned(),
            Some(table.statistics_columns().to_owned()),
        ));
        // Datasets and reports name the version they were made from: it stays readable.
        properties.push(("delta.enableExpiredLogCleanup".to_owned(), Some("false".to_owned())));
        CreateBuilder::new()
            .with_log_store(self.unloaded(table)?.log_store())
            .with_table_name(table.name())
            .with_comment(table.comment())
            .with_columns(columns)
            .with_configuration(properties)
            .with_raise_if_key_not_exists(false)
            .with_commit_properties(CommitProperties::default().with_max_retries(0))
            .await
            .map_err(|source| self.failed("make", table, source))
    }

    fn check_log(
        &self,
        table: LakeTable,
        opened: &DeltaTable,
        log: &LogIdentity,
    ) -> Result<(), Error> {
        let recorded = opened
            .snapshot()
            .map_err(|source| self.failed("read", table, source))?
            .metadata()
            .configuration();
        for (property, actual) in identity_of(log) {
            let recorded = recorded.get(property).map_or("nothing", String::as_str);
            if recorded != actual {
                return Err(Error::OtherLog {
                    table: table.name(),
                    url: self.table_url(table),
                    property,
                    recorded: recorded.to_owned(),
                    actual,
                });
            }
        }
        Ok(())
    }

    pub(crate) fn failed(
        &self,
        what: &'static str,
        table: LakeTable,
        source: DeltaTableError,
    ) -> Error {
        Error::Table {
            what,
            table: table.name(),
            url: self.table_url(table),
            source: Box::new(source),
        }
    }
}

/// What makes two logs the same log, as the tables record it.
fn identity_of(log: &LogIdentity) -> [(&'static str, String); 3] {
    [
        ("chalkstream.log.clusterId", log.cluster_id.clone()),
        ("chalkstream.log.partitions", log.partitions.to_string()),
        ("chalkstream.log.partitioner", log.partitioner.to_owned()),
    ]
}

fn identity_properties(log: &LogIdentity) -> Vec<(String, Option<String>)> {
    identity_of(log).into_iter().map(|(key, value)| (key.to_owned(), Some(value))).collect()
}
