//! The asking side of `control.sock`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use axum::body::{Body, to_bytes};
use hyper::Request;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::config::Config;
use crate::failure::{Advice, Report};
use crate::folder::{DataFolder, Layout, Runtime};
use crate::output::note;

/// How long a process may take to start or stop before a command gives up on it.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a process that answers already may take until it is ready.
const READY_PATIENCE: Duration = Duration::from_secs(30);
/// After this long, the person who waits is told for what.
const SILENCE: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(50);
const BROKEN_OFF: &str = "the running process broke off; look at its log";
/// No answer of this socket is larger.
const ANSWER_MAX_BYTES: usize = 64 << 20;

/// Who works on the data folder: a running process, or this command itself.
#[derive(Debug)]
pub(crate) enum Access {
    Running(Client),
    Ours(DataFolder),
}

/// Asks the process that holds the folder, or takes the folder where nobody does.
pub(crate) async fn access(config: &Config) -> Result<Access> {
    let layout = Layout::new(&config.data_dir);
    let began = Instant::now();
    let mut told = false;
    loop {
        let holder = match DataFolder::try_open(&config.data_dir)? {
            Ok(folder) => return Ok(Access::Ours(folder)),
            Err(holder) => holder,
        };
        // A process that is starting, or another command, may be a moment away from an answer.
        let client = Client { layout: layout.clone() };
        match client.connect().await {
            Ok(_) => return Ok(Access::Running(client)),
            Err(_) if began.elapsed() < PATIENCE => {
                if !told && began.elapsed() > SILENCE {
                    note(&format!("waiting for {holder}, which is starting or stopping"));
                    told = true;
                }
                tokio::time::sleep(POLL).await;
            }
            Err(error) => {
                return Err(error.context(Advice::new(
                    format!(
                        "the data folder {} is locked by {holder}, which does not answer on {}",
                        config.data_dir.display(),
                        layout.socket().display()
                    ),
                    "it may be starting or stopping: try again, or stop it (Ctrl-C) first",
                )));
            }
        }
    }
}

/// The process that holds the folder. Unlike [`access`], it makes no folder where there is none.
pub(crate) async fn running(config: &Config) -> Result<Client> {
    let folder = &config.data_dir;
    if Layout::new(folder).lock().is_file()
        && let Access::Running(client) = access(config).await?
    {
        return Ok(client);
    }
    Err(Advice::new(
        format!("no process runs on the data folder {}", folder.display()),
        "start `chalkstream standalone`, or name the folder of the one that runs with --data-dir",
    )
    .into())
}

/// Asks the running process.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    layout: Layout,
}

impl Client {
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What the process has announced; one that has just started does so once it is ready.
    pub(crate) async fn ready(&self) -> Result<Runtime> {
        let began = Instant::now();
        loop {
            if let Some(runtime) = Runtime::read(&self.layout) {
                return Ok(runtime);
            }
            if began.elapsed() > READY_PATIENCE {
                return Err(Advice::new(
                    "the running process is not ready, or is stopping",
                    "try again in a moment; its log lines tell more",
                )
                .into());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn connect(&self) -> Result<hyper::client::conn::http1::SendRequest<Body>> {
        let path = self.layout.socket();
        let failed = || format!("could not connect to {}", path.display());
        let (reachable, _folder) = super::reachable(&path).with_context(failed)?;
        let stream = UnixStream::connect(reachable).await.with_context(failed)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .with_context(failed)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "control connection ended");
            }
        });
        Ok(sender)
    }

    pub(crate) async fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A> {
        self.ask("GET", path, Body::empty()).await
    }

    pub(crate) async fn post<A: DeserializeOwned>(
        &self,
        path: &str,
        request: &impl Serialize,
    ) -> Result<A> {
        let body = serde_json::to_vec(request).context("could not encode the request")?;
        self.ask("POST", path, Body::from(body)).await
    }

    pub(crate) async fn post_bytes<A: DeserializeOwned>(
        &self,
        path: &str,
        body: Vec<u8>,
    ) -> Result<A> {
        self.ask("POST", path, Body::from(body)).await
    }

    async fn ask<A: DeserializeOwned>(&self, method: &str, path: &str, body: Body) -> Result<A> {
        let body = self.open(method, path, body).await?;
        let body = to_bytes(body, ANSWER_MAX_BYTES).await.context(BROKEN_OFF)?;
        serde_json::from_slice(&body)
            .context("the running process gave an answer that this version does not know")
    }

    /// An answer that comes line by line, until the process ends it.
    pub(crate) async fn stream(&self, path: &str) -> Result<Body> {
        self.open("GET", path, Body::empty()).await
    }

    /// Asks, and gives the answer's body if it is no failure.
    async fn open(&self, method: &str, path: &str, body: Body) -> Result<Body> {
        let mut sender = self.connect().await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::HOST, "chalkstream")
            .header(hyper::header::CONTENT_TYPE, "application/json")
            .body(body)
            .context("could not make the request")?;
        let response = sender.send_request(request).await.context(BROKEN_OFF)?;
        let status = response.status();
        let body = Body::new(response.into_body());
        if status.is_success() {
            return Ok(body);
        }
        let body = to_bytes(body, ANSWER_MAX_BYTES).await.context(BROKEN_OFF)?;
        match serde_json::from_slice::<Report>(&body) {
            Ok(report) => Err(rebuilt(report)),
            Err(_) => Err(anyhow!(
                "the running process answered {status}: {}",
                String::from_utf8_lossy(&body)
            )),
        }
    }
}

/// The error as the other process had it.
fn rebuilt(report: Report) -> anyhow::Error {
    let Report { error, causes, hint } = report;
    let mut chain = causes.into_iter().rev();
    let rebuilt = match chain.next() {
        Some(innermost) => {
            chain.fold(anyhow!(innermost), anyhow::Error::context).context(error.clone())
        }
        None => anyhow!(error.clone()),
    };
    match hint {
        Some(hint) => rebuilt.context(Advice::new(error, hint)),
        None => rebuilt,
    }
}
