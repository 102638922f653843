//! One index for many nodes: Redis, with the node's own index beside it.
//!
//! In: identities that any node acknowledged. Out: the content they were first seen with.
//!
//! A commit goes to this node's own index and to Redis (`SET … NX PX`: the first content stays, and
//! goes with the horizon). A look-up asks the own index first and Redis (`MGET`) for the rest. So
//! with Redis down, or emptied, a node still answers for everything that went through itself.
//! Calls have a short time-out; after one that failed nobody waits for Redis again until it has
//! answered a probe.
//!
//! **No reservation in Redis.** Ids under way are reserved within a node. Two nodes that get the
//! same event at the same moment (a client that gave up on one and tries the other) may both
//! append it and both answer `accepted`; the processors drop the second copy, and if its content
//! differs, keep it as `id_conflict` in `rejected_events`. So tables are exact, and a client that
//! resends counts at most one `accepted` too many. A lock with a time to live in Redis would make
//! that rarer at the price of a second write an event, and not go away: it ends while a slow log
//! still works, and outlives a holder that died.
//!
//! Always true: no trouble with Redis is an error of a look-up or a commit, or delays one by more
//! than its time-out. The URL, which may hold a password, is never shown.
//! Not here: how much Redis holds. Its own `maxmemory` bounds it, with `maxmemory-policy
//! volatile-ttl`, which lets the oldest entries go first; an entry takes about 100 bytes of it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use chalkstream_schemas::{ContentHash, EventIdentity};
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, ErrorKind, RedisError, TlsCertificates};
use tokio::task::JoinHandle;

use super::LocalIndex;
use crate::breaker::Breaker;
use crate::{Error, SeenIndex, SeenStatus, SharedStatus};

/// Keys of one command, so that none holds up Redis for others.
const CHUNK: usize = 1_000;

const PROBE_EVERY: Duration = Duration::from_secs(1);

/// How Redis is reached, and what is kept there.
#[derive(Clone)]
pub struct RedisOptions {
    /// As in `redis://host:6379/0` or `rediss://user:password@host:6380`.
    pub url: String,
    /// Certificates (PEM) of who may sign the server's, for `rediss`; else those of the system.
    pub ca_file: Option<PathBuf>,
    /// Set before every key, so that others can share the server.
    pub prefix: String,
    /// How long an entry stays.
    pub horizon: Duration,
    /// How long a call may take.
    pub timeout: Duration,
}

impl RedisOptions {
    /// The defaults, for a server.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            ca_file: None,
            prefix: "cs:".into(),
            horizon: super::DEFAULT_HORIZON,
            timeout: Duration::from_millis(250),
        }
    }

    fn client(&self) -> Result<Client, Error> {
        let wrong = |key: &str, reason: String| Error::Option {
            key: format!("ingest.dedup.{key}"),
            reason,
        };
        let refused = |error: RedisError| {
            // Its text may repeat what it could not read.
            let kind = error.kind();
            wrong("redis_url", format!("is no address of Redis ({kind:?})"))
        };
        let Some(ca_file) = &self.ca_file else {
            return Client::open(self.url.as_str()).map_err(refused);
        };
        let pem = std::fs::read(ca_file).map_err(|source| Error::Io {
            doing: "read",
            path: ca_file.clone(),
            source,
        })?;
        let tls = TlsCertificates { client_tls: None, root_cert: Some(pem) };
        Client::build_with_tls(self.url.as_str(), tls).map_err(refused)
    }
}

impl fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions")
            .field("prefix", &self.prefix)
            .field("horizon", &self.horizon)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// An index that many nodes share; see the [module](self).
pub struct SharedIndex {
    local: Arc<LocalIndex>,
    redis: Redis,
    breaker: Breaker,
    errors: AtomicU64,
    looked_up_alone: AtomicU64,
    committed_alone: AtomicU64,
    prober: JoinHandle<()>,
}

impl fmt::Debug for SharedIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedIndex")
            .field("local", &self.local)
            .field("breaker", &self.breaker)
            .finish_non_exhaustive()
    }
}

impl SharedIndex {
    /// Puts Redis beside the node's own index. It need not answer yet.
    pub fn open(local: Arc<LocalIndex>, options: &RedisOptions) -> Result<Arc<Self>, Error> {
        // TLS needs a provider; one that the process has chosen already stays.
        drop(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider().install_default());
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(options.timeout))
            .set_response_timeout(Some(options.timeout))
            .set_number_of_retries(1)
            .set_max_delay(Duration::from_millis(100));
        let connection = ConnectionManager::new_lazy_with_config(options.client()?, config)
            .map_err(|error| Error::Option {
                key: "ingest.dedup.redis_url".into(),
                reason: format!("is no address of Redis ({:?})", error.kind()),
            })?;
        let redis = Redis {
            connection,
            prefix: options.prefix.as_bytes().into(),
            horizon_ms: u64::try_from(options.horizon.as_millis()).unwrap_or(u64::MAX).max(1),
            timeout: options.timeout,
        };
        let breaker = Breaker::new("Redis");
        let prober = tokio::spawn(probe(redis.clone(), breaker.clone()));
        Ok(Arc::new(Self {
            local,
            redis,
            breaker,
            errors: AtomicU64::new(0),
            looked_up_alone: AtomicU64::new(0),
            committed_alone: AtomicU64::new(0),
            prober,
        }))
    }

    /// What Redis says, unless it is known not to answer, or does not now.
    async fn ask<T, F: Future<Output = Result<T, RedisError>>>(
        &self,
        events: usize,
        alone: &AtomicU64,
        call: impl FnOnce(Redis) -> F,
    ) -> Option<T> {
        let answered = match self.breaker.admit() {
            None => None,
            Some(admitted) => match self.redis.limited(call).await {
                Ok(answer) => {
                    admitted.succeeded();
                    Some(answer)
                }
                Err(error) => {
                    let why = describe(&error);
                    tracing::warn!(why, "Redis did not answer; going on with this node's index");
                    self.errors.fetch_add(1, Ordering::Relaxed);
                    admitted.failed();
                    None
                }
            },
        };
        if answered.is_none() {
            alone.fetch_add(events as u64, Ordering::Relaxed);
        }
        answered
    }
}

#[async_trait]
impl SeenIndex for SharedIndex {
    async fn lookup(
        &self,
        identities: &[EventIdentity],
    ) -> Result<Vec<Option<ContentHash>>, Error> {
        let mut found = self.local.lookup(identities).await?;
        let unknown: Vec<usize> =
            found.iter().enumerate().filter(|(_, at)| at.is_none()).map(|(at, _)| at).collect();
        if unknown.is_empty() {
            return Ok(found);
        }
        let asked: Vec<_> = unknown.iter().filter_map(|at| identities.get(*at).copied()).collect();
        let call = |redis: Redis| redis.lookup(&asked);
        if let Some(answer) = self.ask(asked.len(), &self.looked_up_alone, call).await {
            for (at, content) in unknown.into_iter().zip(answer) {
                if let Some(place) = found.get_mut(at) {
                    *place = content;
                }
            }
        }
        Ok(found)
    }

    async fn commit(&self, acknowledged: &[(EventIdentity, ContentHash)]) -> Result<(), Error> {
        if acknowledged.is_empty() {
            return Ok(());
        }
        let call = |redis: Redis| redis.commit(acknowledged);
        let shared = self.ask(acknowledged.len(), &self.committed_alone, call);
        let (kept, _told) = tokio::join!(self.local.commit(acknowledged), shared);
        kept
    }

    fn status(&self) -> SeenStatus {
        let shared = SharedStatus {
            state: self.breaker.state(),
            errors: self.errors.load(Ordering::Relaxed),
            looked_up_alone: self.looked_up_alone.load(Ordering::Relaxed),
            committed_alone: self.committed_alone.load(Ordering::Relaxed),
        };
        SeenStatus { shared: Some(shared), ..self.local.status() }
    }
}

impl Drop for SharedIndex {
    fn drop(&mut self) {
        self.prober.abort();
    }
}

/// The connection, which mends itself, and the form of what is kept.
#[derive(Clone)]
struct Redis {
    connection: ConnectionManager,
    prefix: Arc<[u8]>,
    horizon_ms: u64,
    timeout: Duration,
}

impl Redis {
    async fn limited<T, F: Future<Output = Result<T, RedisError>>>(
        &self,
        call: impl FnOnce(Self) -> F,
    ) -> Result<T, RedisError> {
        let answer = tokio::time::timeout(self.timeout, call(self.clone())).await;
        answer.unwrap_or_else(|_elapsed| {
            Err(RedisError::from((ErrorKind::Io, "no answer within the time-out")))
        })
    }

    fn key(&self, identity: &EventIdentity) -> Vec<u8> {
        [&self.prefix, &identity.as_bytes()[..]].concat()
    }

    async fn lookup(
        mut self,
        identities: &[EventIdentity],
    ) -> Result<Vec<Option<ContentHash>>, RedisError> {
        let mut found = Vec::with_capacity(identities.len());
        for chunk in identities.chunks(CHUNK) {
            let mut command = redis::cmd("MGET");
            for identity in chunk {
                command.arg(self.key(identity));
            }
            let values: Vec<Option<Vec<u8>>> = command.query_async(&mut self.connection).await?;
            if values.len() != chunk.len() {
                return Err(RedisError::from((ErrorKind::UnexpectedReturnType, "MGET")));
            }
            for value in values {
                found.push(value.map(content).transpose()?);
            }
        }
        Ok(found)
    }

    async fn commit(
        mut self,
        acknowledged: &[(EventIdentity, ContentHash)],
    ) -> Result<(), RedisError> {
        for chunk in acknowledged.chunks(CHUNK) {
            let mut pipeline = redis::pipe();
            for (identity, content) in chunk {
                let set = pipeline.cmd("SET").arg(self.key(identity)).arg(&content.as_bytes()[..]);
                set.arg("NX").arg("PX").arg(self.horizon_ms).ignore();
            }
            pipeline.query_async::<()>(&mut self.connection).await?;
        }
        Ok(())
    }

    async fn ping(mut self) -> Result<(), RedisError> {
        redis::cmd("PING").query_async(&mut self.connection).await
    }
}

/// A value that is no content hash is not ours, and nothing is concluded from it.
fn content(value: Vec<u8>) -> Result<ContentHash, RedisError> {
    let bytes = <[u8; 16]>::try_from(value);
    bytes.map(ContentHash::from_bytes).map_err(|_other_length| {
        RedisError::from((ErrorKind::UnexpectedReturnType, "a value is no content hash"))
    })
}

/// What went wrong, without anything that could be a part of the URL.
fn describe(error: &RedisError) -> String {
    let code = error.code().unwrap_or_default();
    format!("{:?} {code}", error.kind()).trim_end().to_owned()
}

/// Asks while the breaker is open whether Redis answers.
async fn probe(redis: Redis, breaker: Breaker) {
    loop {
        breaker.until_open().await;
        tokio::time::sleep(PROBE_EVERY).await;
        match redis.limited(Redis::ping).await {
            Ok(()) => breaker.succeeded(),
            Err(error) => tracing::debug!(why = describe(&error), "Redis does not answer yet"),
        }
    }
}
