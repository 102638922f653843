//! Starting, ready, stopping: what a port says of itself, and the requests that a stop waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::problem::{Problem, ProblemKind};

/// Whether a port takes requests, and how many are under way. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Lifecycle {
    inner: Arc<LifecycleInner>,
}

#[derive(Debug)]
struct LifecycleInner {
    /// Why it is not ready; `None` if it is.
    not_ready: Mutex<Option<&'static str>>,
    draining: AtomicBool,
    drained: Notify,
    working: AtomicUsize,
}

impl Default for LifecycleInner {
    fn default() -> Self {
        Self {
            not_ready: Mutex::new(Some("the server is starting")),
            draining: AtomicBool::new(false),
            drained: Notify::new(),
            working: AtomicUsize::new(0),
        }
    }
}

impl Lifecycle {
    /// From now on it is not ready and takes no requests; what is under way goes on.
    pub fn drain(&self) {
        self.unready("the server is stopping");
        self.inner.draining.store(true, Ordering::Release);
        self.inner.drained.notify_waiters();
    }

    /// Waits for the stop to begin.
    pub async fn drained(&self) {
        let told = self.inner.drained.notified();
        if !self.inner.draining.load(Ordering::Acquire) {
            told.await;
        }
    }

    /// Whether requests are still taken; if not, they may be sent again after so long.
    pub fn check_draining(&self, retry_after: Duration) -> Result<(), Problem> {
        if !self.inner.draining.load(Ordering::Acquire) {
            return Ok(());
        }
        let detail = "the server is stopping; send the request again after Retry-After";
        Err(Problem::new(ProblemKind::NotReady, detail).retry_after(retry_after))
    }

    /// From now on it is not ready for this reason; requests are still taken.
    pub fn unready(&self, why: &'static str) {
        *self.inner.not_ready.lock() = Some(why);
    }

    /// From now on it is ready.
    pub fn ready(&self) {
        *self.inner.not_ready.lock() = None;
    }

    /// Requests under way, those of clients that left included.
    pub fn working(&self) -> usize {
        self.inner.working.load(Ordering::Acquire)
    }

    /// Why it is not ready, if it is not.
    pub fn not_ready(&self) -> Option<&'static str> {
        *self.inner.not_ready.lock()
    }

    /// Whether it is ready.
    pub fn check(&self) -> Result<(), Problem> {
        match self.not_ready() {
            None => Ok(()),
            Some(why) => Err(Problem::new(ProblemKind::NotReady, why)),
        }
    }

    /// Counts a request until the answer drops.
    pub fn work(&self) -> Working {
        self.inner.working.fetch_add(1, Ordering::AcqRel);
        Working(Arc::clone(&self.inner))
    }
}

/// A request under way, until it drops.
#[derive(Debug)]
pub struct Working(Arc<LifecycleInner>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.working.fetch_sub(1, Ordering::AcqRel);
    }
}
