//! A circuit breaker: who asks a peer that does not answer is told so at once.
//!
//! In: what became of each call. Out: whether the next may be made. A call that fails opens it; while
//! it is open nobody calls; once a probe has been answered it is half open and lets one call
//! through, which closes it or opens it again.
//! Always true: no clock is read here, so no step of a clock can open or close it; whoever waits
//! when it opens is told at once; a trial that was dropped without a verdict frees its place.
//! Not here: what a call is, how long it may take, and when to probe (whoever owns the breaker).

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

/// Whether calls are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// All of them.
    Closed,
    /// None: the last one failed.
    Open,
    /// One at a time: the peer answered a probe.
    HalfOpen,
}

impl BreakerState {
    /// Every state, in a fixed order.
    pub const ALL: [Self; 3] = [Self::Closed, Self::HalfOpen, Self::Open];

    /// As metrics and people read it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// The breaker. Clones share it.
#[derive(Clone, Debug)]
pub struct Breaker {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    peer: &'static str,
    circuit: Mutex<Circuit>,
    /// How often it has opened; who waits for a call listens.
    opened: watch::Sender<u64>,
}

/// The decisions, without the sharing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Circuit {
    Closed,
    Open,
    HalfOpen { on_trial: bool },
}

impl Circuit {
    fn admit(&mut self) -> Option<bool> {
        match self {
            Self::Closed => Some(false),
            Self::HalfOpen { on_trial } if !*on_trial => {
                *on_trial = true;
                Some(true)
            }
            Self::Open | Self::HalfOpen { .. } => None,
        }
    }

    /// True if this opened it.
    fn failed(&mut self) -> bool {
        let opens = *self != Self::Open;
        *self = Self::Open;
        opens
    }

    /// Any success is proof, also one that was asked for before it opened.
    fn succeeded(&mut self) -> bool {
        let closes = *self != Self::Closed;
        *self = Self::Closed;
        closes
    }

    fn probed(&mut self) {
        if *self == Self::Open {
            *self = Self::HalfOpen { on_trial: false };
        }
    }

    fn abandoned(&mut self) {
        if let Self::HalfOpen { on_trial } = self {
            *on_trial = false;
        }
    }
}

impl Breaker {
    /// A closed one; the name of the peer is for the log.
    pub fn new(peer: &'static str) -> Self {
        let (circuit, opened) = (Mutex::new(Circuit::Closed), watch::Sender::new(0));
        Self { inner: Arc::new(Inner { peer, circuit, opened }) }
    }

    /// Leave to make a call, unless the peer is known not to answer.
    pub fn admit(&self) -> Option<Admitted> {
        // Listening begins before the state is looked at, so that no opening is missed.
        let opened = self.inner.opened.subscribe();
        let trial = self.inner.circuit.lock().admit()?;
        Some(Admitted { breaker: self.clone(), opened, trial, decided: false })
    }

    /// A call that needed no leave was answered.
    pub fn succeeded(&self) {
        let closed = self.inner.circuit.lock().succeeded();
        if closed {
            tracing::info!(peer = self.inner.peer, "it answers again; the breaker is closed");
        }
    }

    /// A call that needed no leave was not answered.
    pub fn failed(&self) {
        // The lock is free again before anybody is woken.
        let opens = self.inner.circuit.lock().failed();
        if opens {
            tracing::warn!(peer = self.inner.peer, "it does not answer; the breaker is open");
            self.inner.opened.send_modify(|times| *times += 1);
        }
    }

    /// The peer answered a probe: a trial may follow.
    pub fn probed(&self) {
        self.inner.circuit.lock().probed();
    }

    /// Whether calls are made now.
    pub fn state(&self) -> BreakerState {
        let circuit = *self.inner.circuit.lock();
        match circuit {
            Circuit::Closed => BreakerState::Closed,
            Circuit::Open => BreakerState::Open,
            Circuit::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// How often it has opened.
    pub fn times_opened(&self) -> u64 {
        *self.inner.opened.borrow()
    }

    /// Waits until it is open; returns at once where it is.
    pub async fn until_open(&self) {
        let mut opened = self.inner.opened.subscribe();
        while self.state() != BreakerState::Open {
            // The sender lives as long as `self`.
            if opened.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Leave to make one call, whose outcome is told here.
#[derive(Debug)]
#[must_use = "the outcome of the call must be told"]
pub struct Admitted {
    breaker: Breaker,
    opened: watch::Receiver<u64>,
    trial: bool,
    decided: bool,
}

impl Admitted {
    /// Waits until the breaker opens, because of this call or another.
    pub async fn opened(&mut self) {
        if self.opened.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The call was answered.
    pub fn succeeded(mut self) {
        self.decided = true;
        self.breaker.succeeded();
    }

    /// The call was not answered.
    pub fn failed(mut self) {
        self.decided = true;
        self.breaker.failed();
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if self.trial && !self.decided {
            self.breaker.inner.circuit.lock().abandoned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_opens_probes_tries_and_closes() {
        let breaker = Breaker::new("test");
        breaker.admit().unwrap().succeeded();
        let mut waiting = breaker.admit().unwrap();
        breaker.admit().unwrap().failed();
        assert_eq!((breaker.state(), breaker.times_opened()), (BreakerState::Open, 1));
        waiting.opened().await;
        waiting.failed();
        assert_eq!(breaker.times_opened(), 1, "a second failure opens nothing");
        assert!(breaker.admit().is_none());

        breaker.probed();
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        let trial = breaker.admit().unwrap();
        assert!(breaker.admit().is_none(), "one trial at a time");
        drop(trial);
        breaker.admit().expect("a dropped trial frees its place").failed();
        assert_eq!((breaker.state(), breaker.times_opened()), (BreakerState::Open, 2));
        breaker.probed();
        breaker.admit().unwrap().succeeded();
        assert_eq!(breaker.state(), BreakerState::Closed);
        breaker.probed();
        assert_eq!(breaker.state(), BreakerState::Closed, "a probe opens nothing");
        assert!(breaker.admit().is_some());
    }

    #[tokio::test]
    async fn any_success_closes_it() {
        let breaker = Breaker::new("test");
        breaker.failed();
        breaker.until_open().await;
        breaker.succeeded();
        assert_eq!(breaker.state(), BreakerState::Closed);
    }
}
