//! The views in ClickHouse, as the user `reader`: the running process's, a server's, or the folder's
//! own where nothing runs.
//!
//! Always true: an answer that broke off in the middle is an error, never a short result.

use std::marker::PhantomData;

use anyhow::{Context as _, Result, bail};
use axum::body::Bytes;
use chalkstream_sql::migrations;
use serde::de::DeserializeOwned;

use crate::config::Config;
use crate::control::{Access, access};
use crate::failure::Advice;
use crate::folder::{Layout, Runtime};
use crate::lines::Lines;
use crate::parts;

/// Where to ask, and as whom.
#[derive(Debug)]
pub(crate) struct Views {
    url: url::Url,
    user: String,
    password: String,
    /// Our endpoint holds `reader` to reading; a server has to be told.
    read_only: bool,
}

/// What to ask.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) query: String,
    /// Values of `{name:Type}` in the query.
    pub(crate) parameters: Vec<(&'static str, String)>,
    /// The format where the query names none.
    pub(crate) format: &'static str,
    /// The whole result before its first byte.
    pub(crate) whole: bool,
}

/// Finds the views, and lets `work` ask them.
pub(crate) async fn with<T>(
    config: &Config,
    work: impl AsyncFnOnce(&Views) -> Result<T>,
) -> Result<T> {
    if let Some(url) = &config.clickhouse.url {
        let password = config.clickhouse.password.as_ref();
        let views = Views {
            url: url.clone(),
            user: config.clickhouse.user.clone(),
            password: password.map_or_else(String::new, |secret| secret.expose().to_owned()),
            read_only: true,
        };
        return work(&views).await;
    }
    match access(config).await? {
        Access::Running(client) => {
            let url = clickhouse_url(client.ready().await?)?;
            work(&Views::reader(&url, client.layout())?).await
        }
        Access::Ours(folder) => {
            let readers = config.clickhouse.readers();
            let engine = parts::embedded_clickhouse(&folder, parts::FREE_PORT, readers).await?;
            let worked = async {
                // The folder may be new, or of an older version.
                migrations::migrate(&engine.database()).await?;
                work(&Views::reader(engine.url(), folder.layout())?).await
            };
            let worked = worked.await;
            engine.shutdown().await;
            worked
        }
    }
}

/// Where the running process has its ClickHouse.
fn clickhouse_url(runtime: Runtime) -> Result<String> {
    match runtime.clickhouse_url {
        Some(url) => Ok(url),
        None => bail!(Advice::new(
            format!("the running role `{}` has no ClickHouse", runtime.role),
            "set `clickhouse.url` to the server that the processors write to",
        )),
    }
}

impl Views {
    fn reader(url: &str, layout: &Layout) -> Result<Self> {
        let credentials = chalkstream_sql::Credentials::load_or_create(&layout.credentials())?;
        Ok(Self {
            url: url.parse().with_context(|| format!("{url} is no address"))?,
            user: "reader".to_owned(),
            password: credentials.reader_password,
            read_only: false,
        })
    }

    /// Asks. The answer comes piece by piece.
    pub(crate) async fn ask(&self, question: &Question) -> Result<Answer> {
        let mut url = self.url.clone();
        {
            let mut pairs = url.query_pairs_mut();
            pairs.append_pair("database", "chalkstream");
            pairs.append_pair("default_format", question.format);
            if question.whole {
                pairs.append_pair("wait_end_of_query", "1");
            }
            pairs.append_pair("output_format_json_quote_64bit_integers", "0");
            if self.read_only {
                pairs.append_pair("readonly", "2");
            }
            for (name, value) in &question.parameters {
                pairs.append_pair(&format!("param_{name}"), value);
            }
        }
        let response = reqwest::Client::new()
            .post(url)
            .header("X-ClickHouse-User", &self.user)
            .header("X-ClickHouse-Key", &self.password)
            .body(question.query.clone())
            .send()
            .await
            .map_err(|error| {
                let what = format!("ClickHouse at {} does not answer", self.url);
                anyhow::Error::new(error.without_url()).context(Advice::new(
                    what,
                    "is it running? `chalkstream doctor` looks at everything",
                ))
            })?;
        if !response.status().is_success() {
            let text = response.text().await.context(BROKE_OFF)?;
            bail!("ClickHouse refused the query: {}", text.trim());
        }
        Ok(Answer { response, tail: Tail::default() })
    }
}

impl Views {
    /// Asks for rows in JSONEachRow. They come one by one.
    pub(crate) async fn rows<T: DeserializeOwned>(&self, question: &Question) -> Result<Rows<T>> {
        let answer = self.ask(question).await?;
        Ok(Rows { answer, lines: Lines::default(), row: PhantomData })
    }
}

/// Rows on their way.
#[derive(Debug)]
pub(crate) struct Rows<T> {
    answer: Answer,
    lines: Lines,
    row: PhantomData<T>,
}

impl<T: DeserializeOwned> Rows<T> {
    pub(crate) async fn next(&mut self) -> Result<Option<T>> {
        loop {
            if let Some(line) = self.lines.next() {
                let row = serde_json::from_slice(line);
                return row.map(Some).context("ClickHouse answered with other columns than asked");
            }
            match self.answer.next().await? {
                Some(piece) => self.lines.push(&piece),
                None => return Ok(None),
            }
        }
    }
}

const BROKE_OFF: &str = "ClickHouse's answer broke off";

/// A result on its way.
#[derive(Debug)]
pub(crate) struct Answer {
    response: reqwest::Response,
    tail: Tail,
}

impl Answer {
    /// The next bytes, cut anywhere; nothing at the end of a complete result.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some(piece) = self.response.chunk().await.context(BROKE_OFF)? {
            self.tail.push(&piece);
            return Ok(Some(piece));
        }
        match self.tail.exception() {
            Some(text) => bail!("ClickHouse stopped in the middle of the result: {text}"),
            None => Ok(None),
        }
    }
}

/// ClickHouse puts an error that comes after the first rows at the end of the body.
#[derive(Debug, Default)]
struct Tail(Vec<u8>);

impl Tail {
    const KEPT_BYTES: usize = 4096;

    fn push(&mut self, piece: &[u8]) {
        self.0.extend_from_slice(piece);
        let surplus = self.0.len().saturating_sub(Self::KEPT_BYTES);
        self.0.drain(..surplus);
    }

    fn exception(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.0);
        let (_, exception) = text.rsplit_once("__exception__")?;
        Some(exception.trim().to_owned())
    }
}
