//! Brings a ClickHouse to this version's schema: migrations once, in order, then all views.
//!
//! In: `migrations/NNNN_name.sql` and `views/<view>.sql`, compiled in. Applied migrations stand in
//! `schema_migrations_raw` with their checksum and time; one that was edited afterwards is an
//! error. Views are replaced every time; they may build on each other in any order.
//! Always true: a migration is recorded after its last statement. A crash in the middle repeats
//! the file, so statements are written to be repeatable (`IF NOT EXISTS`). On a server, a table
//! that only one process can create keeps others out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::engine::is_view_name;
use crate::lexer::{Lexer, split_statements};
use crate::{Database, Error};

include!(concat!(env!("OUT_DIR"), "/sql_files.rs"));

const LOCK_TABLE: &str = "schema_migrations_lock_raw";
/// How long to wait for another process.
const LOCK_PATIENCE: Duration = Duration::from_secs(120);
/// A lock so old was left by a process that died.
const LOCK_STALE_SECONDS: u64 = 600;

/// One versioned change of the storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// `NNNN_name`, the file's name without its ending.
    pub name: String,
    /// Its statements, separated by `;`.
    pub sql: String,
}

/// One public view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Its name in the database.
    pub name: String,
    /// One `CREATE OR REPLACE VIEW` statement (`CREATE VIEW` will do).
    pub sql: String,
}

/// What a database is brought to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schema {
    /// In order of their numbers.
    pub migrations: Vec<Migration>,
    /// In any order.
    pub views: Vec<View>,
}

impl Schema {
    /// The schema of this version of chalkstream.
    pub fn embedded() -> Self {
        let pair = |(name, sql): &(&str, &str)| ((*name).to_owned(), (*sql).to_owned());
        Self {
            migrations: MIGRATION_FILES
                .iter()
                .map(pair)
                .map(|(name, sql)| Migration { name, sql })
                .collect(),
            views: VIEW_FILES.iter().map(pair).map(|(name, sql)| View { name, sql }).collect(),
        }
    }

    /// Names of the views that readers may see: all but `users_private`.
    pub fn public_views(&self) -> Vec<String> {
        let views = self.views.iter().map(|view| view.name.clone());
        views.filter(|name| is_public(name)).collect()
    }

    /// Names and files that cannot work are refused before anything is changed.
    fn check(&self) -> Result<(), Error> {
        let wrong = |file: &str, reason: &str| {
            Err(Error::MigrationFile { file: format!("{file}.sql"), reason: reason.to_owned() })
        };
        let mut numbers = BTreeSet::new();
        for Migration { name, sql } in &self.migrations {
            let number = name.split('_').next().unwrap_or_default();
            if number.len() != 4 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
                return wrong(name, "its name does not begin with four digits and `_`");
            }
            if !numbers.insert(number) {
                return wrong(name, "another migration has the same number");
            }
            if split_statements(sql).is_empty() {
                return wrong(name, "it holds no statement");
            }
        }
        for View { name, sql } in &self.views {
            if !is_view_name(name) {
                return wrong(name, "a view's name is lower-case letters, digits and `_`");
            }
            if split_statements(sql).len() != 1 {
                return wrong(name, "it does not hold exactly one statement");
            }
        }
        Ok(())
    }
}

/// Storage and names of people are private.
fn is_public(view: &str) -> bool {
    let storage = ["_state", "_raw", "_part"].iter().any(|ending| view.ends_with(ending));
    view != "users_private" && !storage
}

/// What a migration did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Migrations that were applied now.
    pub applied: Vec<String>,
    /// Migrations that had been applied before.
    pub already: usize,
    /// Views that were replaced.
    pub views: usize,
}

/// Brings `db` to this version's schema.
pub async fn migrate(db: &Database) -> Result<Report, Error> {
    migrate_to(db, &Schema::embedded()).await
}

/// Brings `db` to a schema.
pub async fn migrate_to(db: &Database, schema: &Schema) -> Result<Report, Error> {
    schema.check()?;
    let server = db.with_database("default");
    server.execute(&format!("CREATE DATABASE IF NOT EXISTS {}", name_of(db))).await?;
    if db.is_exclusive() {
        // Nobody else can be migrating: a lock would be a dead process's.
        db.execute(&format!("DROP TABLE IF EXISTS {LOCK_TABLE}")).await?;
    }
    lock(db).await?;
    let done = apply(db, schema).await;
    // The lock goes first, then the error is told: it must not outlive a failed migration.
    let unlocked = db.execute(&format!("DROP TABLE IF EXISTS {LOCK_TABLE}")).await;
    let report = done?;
    unlocked?;
    Ok(report)
}

/// Whether `db` has this version's migrations; changes nothing.
pub async fn check(db: &Database) -> Result<(), Error> {
    let known = Schema::embedded().migrations;
    let pending = decide(&known, &recorded(db).await?)?;
    if pending.is_empty() {
        return Ok(());
    }
    Err(Error::NotMigrated { missing: pending.iter().map(|one| one.name.clone()).collect() })
}

fn name_of(db: &Database) -> String {
    format!("`{}`", db.database().replace('`', "``"))
}

/// CREATE TABLE succeeds for one process alone.
async fn lock(db: &Database) -> Result<(), Error> {
    let started = Instant::now();
    let create = format!(
        "CREATE TABLE {LOCK_TABLE} (held UInt8) ENGINE = Memory COMMENT 'a migration is running'"
    );
    loop {
        match db.execute(&create).await {
            Ok(()) => return Ok(()),
            // TABLE_ALREADY_EXISTS
            Err(Error::Exception { source, .. }) if source.code == 57 => {}
            Err(error) => return Err(error),
        }
        break_stale_lock(db).await?;
        if started.elapsed() > LOCK_PATIENCE {
            return Err(Error::MigrationLocked { seconds: started.elapsed().as_secs() });
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Renames a dead process's lock away: of two that try, one succeeds.
async fn break_stale_lock(db: &Database) -> Result<(), Error> {
    let stale = db
        .query_json(&format!(
            "SELECT 1 FROM system.tables WHERE database = currentDatabase() AND name = \
             '{LOCK_TABLE}' AND metadata_modification_time < now() - {LOCK_STALE_SECONDS}"
        ))
        .await?;
    if stale.is_empty() {
        return Ok(());
    }
    tracing::warn!("removing the migration lock of a process that died");
    let aside = format!("schema_migrations_lock_{}_raw", uuid::Uuid::new_v4().simple());
    match db.execute(&format!("RENAME TABLE {LOCK_TABLE} TO {aside}")).await {
        Ok(()) => db.execute(&format!("DROP TABLE IF EXISTS {aside}")).await,
        Err(Error::Exception { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn apply(db: &Database, schema: &Schema) -> Result<Report, Error> {
    db.execute(
        "CREATE TABLE IF NOT EXISTS schema_migrations_raw (
            name String COMMENT 'NNNN_name of the migration',
            checksum FixedString(64) COMMENT 'BLAKE3 of its text, in hexadecimal',
            applied_at DateTime64(3, 'UTC') DEFAULT now64(3) COMMENT 'when its last statement ended',
            chalkstream_version String COMMENT 'the version that applied it'
         ) ENGINE = MergeTree ORDER BY name
         SETTINGS fsync_after_insert = 1, fsync_part_directory = 1,
            min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1
         COMMENT 'migrations that were applied'",
    )
    .await?;
    let recorded = recorded(db).await?;
    let pending = decide(&schema.migrations, &recorded)?;
    let mut report = Report { already: recorded.len(), ..Report::default() };
    for migration in pending {
        run(db, migration).await?;
        report.applied.push(migration.name.clone());
    }
    report.views = replace_views(db, &schema.views).await?;
    Ok(report)
}

/// What the database says was applied: name to (checksum, time).
async fn recorded(db: &Database) -> Result<BTreeMap<String, (String, String)>, Error> {
    let rows = db
        .query_json(
            "SELECT name, toString(checksum) AS checksum, toString(applied_at) AS applied_at \
             FROM schema_migrations_raw",
        )
        .await?;
    let text = |row: &Value, key: &str| {
        row.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let entry = |row: &Value| (text(row, "name"), (text(row, "checksum"), text(row, "applied_at")));
    Ok(rows.iter().map(entry).collect())
}

/// Which migrations to run. Pure.
fn decide<'a>(
    known: &'a [Migration],
    recorded: &BTreeMap<String, (String, String)>,
) -> Result<Vec<&'a Migration>, Error> {
    if let Some(name) = recorded.keys().find(|name| known.iter().all(|of| of.name != **name)) {
        return Err(Error::MigrationUnknown { name: name.clone() });
    }
    let mut pending = Vec::new();
    for migration in known {
        let found = checksum(&migration.sql);
        match recorded.get(&migration.name) {
            None => pending.push(migration),
            Some((checksum, _)) if *checksum == found => {}
            Some((checksum, applied_at)) => {
                return Err(Error::MigrationChanged {
                    name: migration.name.clone(),
                    applied_at: applied_at.clone(),
                    recorded: checksum.clone(),
                    found,
                });
            }
        }
    }
    Ok(pending)
}

fn checksum(sql: &str) -> String {
    blake3::hash(sql.as_bytes()).to_hex().to_string()
}

async fn run(db: &Database, migration: &Migration) -> Result<(), Error> {
    let failed = |statement| {
        let name = migration.name.clone();
        move |source| Error::MigrationFailed { name, statement, source: Box::new(source) }
    };
    let statements = split_statements(&migration.sql);
    for (index, statement) in statements.iter().enumerate() {
        db.execute(statement).await.map_err(failed(index + 1))?;
    }
    let record = format!(
        "INSERT INTO schema_migrations_raw (name, checksum, chalkstream_version) \
         SELECT '{}', '{}', '{}'",
        migration.name.replace('\\', "\\\\").replace('\'', "\\'"),
        checksum(&migration.sql),
        env!("CARGO_PKG_VERSION")
    );
    db.execute(&record).await.map_err(failed(statements.len() + 1))
}

/// Creates all views, again and again while some succeed, because they build on each other.
async fn replace_views(db: &Database, views: &[View]) -> Result<usize, Error> {
    let mut left: Vec<&View> = views.iter().collect();
    while !left.is_empty() {
        let mut failed = Vec::new();
        let before = left.len();
        for view in left {
            match db.execute(&create_or_replace(&view.sql)).await {
                Ok(()) => {}
                Err(error @ (Error::Unreachable { .. } | Error::Timeout { .. })) => {
                    return Err(error);
                }
                Err(error) => failed.push((view, error)),
            }
        }
        if failed.len() == before {
            let (view, source) = failed.swap_remove(0);
            let name = view.name.clone();
            return Err(Error::ViewFailed { name, source: Box::new(source) });
        }
        left = failed.into_iter().map(|(view, _)| view).collect();
    }
    Ok(views.len())
}

/// `CREATE VIEW …` with OR REPLACE, and with the rights of its maker: whoever may read a view need
/// not be able to read its tables.
fn create_or_replace(sql: &str) -> String {
    let statement = split_statements(sql).first().copied().unwrap_or_default();
    let bytes = statement.as_bytes();
    let mut rest = statement;
    let mut begin = String::new();
    let mut depth = 0_usize;
    let mut secured = false;
    let mut previous_is_create = false;
    for token in Lexer::new(bytes) {
        if previous_is_create && !token.is_word(bytes, "OR") {
            begin.push_str("CREATE OR REPLACE ");
            rest = statement.get(token.range.start..).unwrap_or_default();
        }
        previous_is_create = begin.is_empty() && token.is_word(bytes, "CREATE");
        if token.is_sign(b'(') {
            depth += 1;
        } else if token.is_sign(b')') {
            depth = depth.saturating_sub(1);
        } else if depth == 0 && (token.is_word(bytes, "SQL") || token.is_word(bytes, "DEFINER")) {
            secured = true;
        } else if depth == 0 && token.is_word(bytes, "AS") {
            if secured {
                break;
            }
            let at = token.range.start - (statement.len() - rest.len());
            let (head, tail) = rest.split_at_checked(at).unwrap_or((rest, ""));
            return format!("{begin}{head}DEFINER = CURRENT_USER SQL SECURITY DEFINER {tail}");
        }
    }
    format!("{begin}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn migration(name: &str, sql: &str) -> Migration {
        Migration { name: name.to_owned(), sql: sql.to_owned() }
    }

    #[test]
    fn only_what_is_new_runs_and_an_edited_migration_is_named() {
        let known = [migration("0001_a", "SELECT 1"), migration("0002_b", "SELECT 2")];
        let mut recorded = BTreeMap::new();
        assert_eq!(decide(&known, &recorded).unwrap().len(), 2);
        recorded.insert("0001_a".to_owned(), (checksum("SELECT 1"), "then".to_owned()));
        assert_eq!(decide(&known, &recorded).unwrap()[0].name, "0002_b");
        recorded.insert("0002_b".to_owned(), (checksum("SELECT 3"), "then".to_owned()));
        let error = decide(&known, &recorded).unwrap_err();
        assert!(error.to_string().contains("0002_b") && error.hint().is_some(), "{error}");
        recorded.insert("0009_z".to_owned(), (checksum(""), "then".to_owned()));
        assert!(decide(&known, &recorded).unwrap_err().to_string().contains("0009_z"));
    }

    #[test]
    fn files_that_cannot_work_are_refused_by_name() {
        let check = |schema: Schema, file: &str| {
            let error = schema.check().unwrap_err().to_string();
            assert!(error.starts_with(file), "{error}");
        };
        let migrations = |list: &[&str]| Schema {
            migrations: list.iter().map(|name| migration(name, "SELECT 1")).collect(),
            views: vec![],
        };
        check(migrations(&["1_a"]), "1_a.sql");
        check(migrations(&["0001_a", "0001_b"]), "0001_b.sql");
        let view = View { name: "Bad".into(), sql: "SELECT 1".into() };
        check(Schema { migrations: vec![], views: vec![view] }, "Bad.sql");
    }

    #[test]
    fn a_view_is_replaced_and_reads_with_its_makers_rights() {
        let check = |sql: &str, expected: &str| assert_eq!(create_or_replace(sql), expected);
        check(
            "-- note\nCREATE VIEW v (`AS` UInt8 COMMENT 'as (') AS SELECT 1 AS a;\n",
            "CREATE OR REPLACE VIEW v (`AS` UInt8 COMMENT 'as (') DEFINER = CURRENT_USER SQL SECURITY DEFINER AS SELECT 1 AS a",
        );
        check(
            "CREATE OR REPLACE VIEW v AS SELECT 1",
            "CREATE OR REPLACE VIEW v DEFINER = CURRENT_USER SQL SECURITY DEFINER AS SELECT 1",
        );
        check(
            "create view v SQL SECURITY INVOKER AS SELECT 1",
            "CREATE OR REPLACE view v SQL SECURITY INVOKER AS SELECT 1",
        );
    }

    #[test]
    fn the_files_of_this_version_are_well_formed() {
        Schema::embedded().check().unwrap();
    }
}
