//! `sql QUERY`: a question to the views, as the user `reader`.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use chalkstream_sql::migrations;

use super::Context;
use crate::control::{Access, access};
use crate::failure::Advice;
use crate::folder::{Layout, Runtime};
use crate::parts;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The query; - reads it from standard input
    query: String,
}

/// Where to ask, and as whom.
#[derive(Debug)]
struct Server {
    url: url::Url,
    user: String,
    password: String,
    /// Our endpoint holds `reader` to reading; a server has to be told.
    read_only: bool,
}

pub(crate) async fn run(args: Args, cx: Context) -> Result<ExitCode> {
    let query = if args.query == "-" {
        std::io::read_to_string(std::io::stdin()).context("could not read standard input")?
    } else {
        args.query
    };
    if query.trim().is_empty() {
        return Err(
            Advice::usage("the query is empty", "try \"SELECT * FROM events LIMIT 5\"").into()
        );
    }
    if let Some(url) = &cx.config.clickhouse.url {
        let password = cx.config.clickhouse.password.as_ref();
        let server = Server {
            url: url.clone(),
            user: cx.config.clickhouse.user.clone(),
            password: password.map_or_else(String::new, |secret| secret.expose().to_owned()),
            read_only: true,
        };
        ask(&server, &query, &cx).await?;
        return Ok(ExitCode::SUCCESS);
    }
    match access(&cx.config).await? {
        Access::Running(client) => {
            let url = clickhouse_url(client.ready().await?)?;
            ask(&reader(&url, client.layout())?, &query, &cx).await?;
        }
        Access::Ours(folder) => {
            let engine = parts::embedded_clickhouse(&folder, parts::FREE_PORT).await?;
            let asked = async {
                // The folder may be new, or of an older version.
                migrations::migrate(&engine.database()).await?;
                ask(&reader(engine.url(), folder.layout())?, &query, &cx).await
            };
            let asked = asked.await;
            engine.shutdown().await;
            asked?;
        }
    }
    Ok(ExitCode::SUCCESS)
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

fn reader(url: &str, layout: &Layout) -> Result<Server> {
    let credentials = chalkstream_sql::Credentials::load_or_create(&layout.credentials())?;
    Ok(Server {
        url: url.parse().with_context(|| format!("{url} is no address"))?,
        user: "reader".to_owned(),
        password: credentials.reader_password,
        read_only: false,
    })
}

/// Prints the rows as they come.
async fn ask(server: &Server, query: &str, cx: &Context) -> Result<()> {
    let json = cx.output.is_json();
    let mut url = server.url.clone();
    {
        let mut pairs = url.query_pairs_mut();
        pairs.append_pair("database", "chalkstream");
        pairs.append_pair(
            "default_format",
            if json { "JSONEachRow" } else { "PrettyCompactMonoBlock" },
        );
        if !json {
            // One table for people, not one a block.
            pairs.append_pair("wait_end_of_query", "1");
        }
        pairs.append_pair("output_format_json_quote_64bit_integers", "0");
        if server.read_only {
            pairs.append_pair("readonly", "2");
        }
    }
    let response = reqwest::Client::new()
        .post(url)
        .header("X-ClickHouse-User", &server.user)
        .header("X-ClickHouse-Key", &server.password)
        .body(query.to_owned())
        .send()
        .await
        .map_err(|error| {
            let what = format!("ClickHouse at {} does not answer", server.url);
            anyhow::Error::new(error.without_url()).context(Advice::new(
                what,
                "is it running? `chalkstream doctor` looks at everything",
            ))
        })?;
    if !response.status().is_success() {
        let text = response.text().await.context("ClickHouse's answer broke off")?;
        bail!("ClickHouse refused the query: {}", text.trim());
    }
    let mut response = response;
    let mut tail = Tail::default();
    while let Some(piece) = response.chunk().await.context("ClickHouse's answer broke off")? {
        tail.push(&piece);
        cx.output.write(&piece)?;
    }
    match tail.exception() {
        Some(text) => bail!("ClickHouse stopped in the middle of the result: {text}"),
        None => Ok(()),
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
