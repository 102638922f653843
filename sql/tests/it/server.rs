//! The one server of this test binary, and raw requests to it.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use chalkstream_sql::migrations::{Migration, Schema, View, migrate_to};
use chalkstream_sql::{
    Credentials, Database, EmbeddedOptions, EmbeddedServer, ReaderLimits, locate_libchdb,
};
use reqwest::{RequestBuilder, Response, StatusCode};
use tokio::runtime::Runtime;

pub(crate) struct Fixture {
    pub(crate) url: String,
    pub(crate) credentials: Credentials,
    pub(crate) database: Database,
    pub(crate) folder: PathBuf,
    pub(crate) runtime: Runtime,
}

/// The views that the tests' reader may see.
pub(crate) fn schema() -> Schema {
    let view = |name: &str, sql: &str| View { name: name.into(), sql: sql.into() };
    Schema {
        migrations: vec![Migration {
            name: "0001_samples".into(),
            sql: "CREATE TABLE IF NOT EXISTS samples_raw (id UInt64, text String, at \
                  DateTime64(3, 'UTC') DEFAULT now64(3)) ENGINE = MergeTree ORDER BY id;\n\
                  CREATE TABLE IF NOT EXISTS secrets_raw (secret String) ENGINE = MergeTree \
                  ORDER BY secret; -- end\nINSERT INTO secrets_raw VALUES ('hunter2; it''s');"
                .into(),
        }],
        views: vec![
            // Builds on the next one, so the order of names is the wrong one.
            view("above", "CREATE VIEW above AS SELECT count() AS rows FROM samples"),
            view("samples", "CREATE VIEW samples AS SELECT id, text, at FROM samples_raw"),
            view("users_private", "CREATE VIEW users_private AS SELECT secret FROM secrets_raw"),
        ],
    }
}

/// Starts the server on first use. `None` if libchdb is missing and that was said to be fine.
pub(crate) fn fixture() -> Option<&'static Fixture> {
    static FIXTURE: OnceLock<Option<Fixture>> = OnceLock::new();
    FIXTURE.get_or_init(start).as_ref()
}

fn start() -> Option<Fixture> {
    let library = match locate_libchdb() {
        Ok(library) => library,
        Err(error) => {
            let sentence = format!("{error}; {}", error.hint().unwrap_or_default());
            assert!(std::env::var_os("CHALKSTREAM_ALLOW_SKIP").is_some(), "{sentence}");
            println!("skipped: {sentence}");
            return None;
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap().keep();
    let credentials = Credentials::load_or_create(&folder.join("credentials.toml")).unwrap();
    let options = EmbeddedOptions {
        data_dir: folder.join("clickhouse"),
        listen: "127.0.0.1:0".parse().unwrap(),
        credentials: credentials.clone(),
        library: Some(library),
        readers: ReaderLimits::default(),
    };
    let (url, database) = runtime.block_on(async {
        let views = schema().public_views();
        let server = EmbeddedServer::start_with_views(options, views).await.unwrap();
        let database = server.database();
        migrate_to(&database, &schema()).await.unwrap();
        database
            .execute("CREATE TABLE plain (a UInt64, b String) ENGINE = MergeTree ORDER BY a")
            .await
            .unwrap();
        let url = server.url().to_owned();
        // Tests have no common end: the folder is removed at the process's exit.
        std::mem::forget(server);
        (url, database)
    });
    FOLDER.set(folder.clone()).unwrap();
    end_at_exit();
    Some(Fixture { url, credentials, database, folder, runtime })
}

static FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// The engine still runs when the process ends, and its library's destructors would crash under
/// it: the process ends without them, with the status that the tests gave.
#[expect(unsafe_code, reason = "tests have no common end at which to shut their server down")]
fn end_at_exit() {
    unsafe extern "C" {
        fn on_exit(
            function: extern "C" fn(libc::c_int, *mut libc::c_void),
            argument: *mut libc::c_void,
        ) -> libc::c_int;
    }
    extern "C" fn end(status: libc::c_int, _argument: *mut libc::c_void) {
        if let Some(folder) = FOLDER.get() {
            drop(std::fs::remove_dir_all(folder));
        }
        // SAFETY: ends the process at once; nothing is left to run.
        unsafe { libc::_exit(status) }
    }
    // SAFETY: `end` touches a static alone, which lives until the end.
    let registered = unsafe { on_exit(end, std::ptr::null_mut()) };
    assert_eq!(registered, 0);
}

/// Who asks.
#[derive(Clone, Copy)]
pub(crate) enum User {
    Admin,
    Reader,
    Nobody,
}

impl Fixture {
    pub(crate) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(120), work)
                .await
                .expect("a test took over 120 s")
        })
    }

    /// A POST to `/` with these parameters.
    pub(crate) fn post(&self, user: User, parameters: &[(&str, &str)]) -> RequestBuilder {
        let request = reqwest::Client::new().post(with(&self.url, parameters));
        match user {
            User::Admin => request.basic_auth("admin", Some(&self.credentials.admin_password)),
            User::Reader => request.basic_auth("reader", Some(&self.credentials.reader_password)),
            User::Nobody => request,
        }
    }

    /// A statement's status and text.
    pub(crate) fn ask(
        &self,
        user: User,
        sql: &str,
        parameters: &[(&str, &str)],
    ) -> (StatusCode, String) {
        self.run(async {
            let response = self.post(user, parameters).body(sql.to_owned()).send().await.unwrap();
            (response.status(), response.text().await.unwrap())
        })
    }

    /// A statement of `admin` that must work.
    #[track_caller]
    pub(crate) fn admin(&self, sql: &str) -> String {
        let (status, text) = self.ask(User::Admin, sql, &[]);
        assert_eq!(status, StatusCode::OK, "{sql}: {text}");
        text
    }

    /// A table of this test alone.
    pub(crate) fn table(&self, name: &str, columns: &str) -> String {
        self.admin(&format!("CREATE TABLE {name} ({columns}) ENGINE = MergeTree ORDER BY tuple()"));
        name.to_owned()
    }
}

/// An address with parameters.
pub(crate) fn with(url: &str, parameters: &[(&str, &str)]) -> url::Url {
    url::Url::parse_with_params(url, parameters).unwrap()
}

pub(crate) fn header(response: &Response, name: &str) -> String {
    let value = response.headers().get(name);
    value.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
}

/// What every client must carry unharmed.
pub(crate) const AWKWARD: &[&str] = &[
    "",
    "plain",
    "two\n\nlines\n\n\nand more\r\n\r\n",
    "a NUL \0 inside\0",
    "emoji 🧑‍🏫 and ünïcode 数学",
    "quotes ' \" ` \\ \\n \t tab ; -- /* $$ {x:UInt8}",
    "FORMAT CSV\n1,2\nINSERT INTO plain VALUES",
];
