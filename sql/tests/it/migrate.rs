//! Migrations and views on the embedded ClickHouse.

use chalkstream_sql::Error;
use chalkstream_sql::migrations::{Migration, Schema, View, check, migrate_to};

use super::server::{Fixture, fixture};

fn schema(view: &str) -> Schema {
    Schema {
        migrations: vec![Migration {
            name: "0001_first".into(),
            sql:
                "-- a note; with a semicolon\nCREATE TABLE IF NOT EXISTS t_raw (a String) ENGINE = \
                  MergeTree ORDER BY a;\nINSERT INTO t_raw VALUES ('one; two'), ('it''s');\n"
                    .into(),
        }],
        views: vec![View { name: "t".into(), sql: view.into() }],
    }
}

const VIEW: &str = "CREATE VIEW t AS SELECT a FROM t_raw";

fn rows(server: &Fixture, database: &str) -> usize {
    let database = server.database.with_database(database);
    server.run(database.query_json("SELECT a FROM t")).unwrap().len()
}

#[test]
fn a_migration_runs_once_and_views_every_time() {
    let Some(server) = fixture() else { return };
    let database = server.database.with_database("migrate_once");
    let first = server.run(migrate_to(&database, &schema(VIEW))).unwrap();
    assert_eq!((first.applied.len(), first.already, first.views), (1, 0, 1));
    let second = server.run(migrate_to(&database, &schema(VIEW))).unwrap();
    assert_eq!((second.applied.len(), second.already, second.views), (0, 1, 1));
    assert_eq!(rows(server, "migrate_once"), 2);
    let changed = "CREATE OR REPLACE VIEW t AS SELECT a FROM t_raw WHERE a = 'one; two'";
    server.run(migrate_to(&database, &schema(changed))).unwrap();
    assert_eq!(rows(server, "migrate_once"), 1);
}

#[test]
fn an_edited_or_unknown_migration_is_named_and_nothing_changes() {
    let Some(server) = fixture() else { return };
    let database = server.database.with_database("migrate_edited");
    server.run(migrate_to(&database, &schema(VIEW))).unwrap();
    let mut edited = schema(VIEW);
    edited.migrations[0].sql.push_str("DROP TABLE t_raw;");
    let error = server.run(migrate_to(&database, &edited)).unwrap_err();
    assert!(
        matches!(&error, Error::MigrationChanged { name, .. } if name == "0001_first"),
        "{error}"
    );
    edited.migrations.clear();
    let error = server.run(migrate_to(&database, &edited)).unwrap_err();
    assert!(matches!(&error, Error::MigrationUnknown { name } if name == "0001_first"), "{error}");
    assert_eq!(rows(server, "migrate_edited"), 2);
}

#[test]
fn a_failed_migration_says_where_and_can_be_repeated() {
    let Some(server) = fixture() else { return };
    let database = server.database.with_database("migrate_failed");
    let mut broken = schema(VIEW);
    broken.migrations[0].sql.push_str("SELECT * FROM nowhere;");
    let error = server.run(migrate_to(&database, &broken)).unwrap_err();
    assert!(matches!(&error, Error::MigrationFailed { statement: 3, .. }), "{error}");
    server.run(migrate_to(&database, &schema(VIEW))).unwrap();
    let mut broken = schema("CREATE VIEW t AS SELECT a FROM nowhere");
    broken.migrations = schema(VIEW).migrations;
    let error = server.run(migrate_to(&database, &broken)).unwrap_err();
    assert!(matches!(&error, Error::ViewFailed { name, .. } if name == "t"), "{error}");
}

#[test]
fn two_that_migrate_at_once_run_each_migration_once() {
    let Some(server) = fixture() else { return };
    let url = server.database.url();
    // Not the embedded server's own handle: that one knows that it is alone and takes no lock.
    let password = &server.credentials.admin_password;
    let database = chalkstream_sql::Database::new(url, "admin", password, "migrate_twice").unwrap();
    let schema = schema(VIEW);
    let (one, two) = server.run(async {
        tokio::join!(migrate_to(&database, &schema), migrate_to(&database, &schema))
    });
    assert_eq!(one.unwrap().applied.len() + two.unwrap().applied.len(), 1);
    assert_eq!(rows(server, "migrate_twice"), 2);
}

#[test]
fn this_versions_files_make_a_schema() {
    let Some(server) = fixture() else { return };
    let database = server.database.with_database("migrate_real");
    let schema = Schema::embedded();
    let report = server.run(migrate_to(&database, &schema)).unwrap();
    assert_eq!(report.applied.len(), schema.migrations.len());
    assert_eq!(report.views, schema.views.len());
}

#[test]
fn a_database_of_an_older_version_is_told_from_the_newest() {
    let Some(server) = fixture() else { return };
    let database = server.database.with_database("migrate_older");
    let error = server.run(check(&database)).unwrap_err();
    assert_eq!(error.hint(), Some("run `chalkstream migrate` first"), "{error}");
    let mut older = Schema::embedded();
    older.views.clear();
    let newest = older.migrations.pop().unwrap().name;
    server.run(migrate_to(&database, &older)).unwrap();
    let error = server.run(check(&database)).unwrap_err();
    assert!(error.to_string().contains(&newest), "{error}");
    assert_eq!(error.hint(), Some("run `chalkstream migrate` first"), "{error}");
    server.run(migrate_to(&database, &Schema::embedded())).unwrap();
    server.run(check(&database)).unwrap();
}
