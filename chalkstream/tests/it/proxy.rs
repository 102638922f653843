//! A TCP proxy that cuts connections in the middle of what they carry.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::Rng;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::support::runtime;

/// What becomes of a connection.
#[derive(Clone, Debug)]
pub(crate) enum Mode {
    /// It is carried.
    Open,
    /// It is refused.
    Down,
    /// It is cut after so many bytes of the client, or after so many of the server.
    Cut { requests: Range<u64>, answers: Range<u64> },
}

/// One listens, and carries to a target that may be named later.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    mode: watch::Sender<Mode>,
    target: watch::Sender<Option<SocketAddr>>,
    cuts: Arc<AtomicU64>,
}

impl Proxy {
    pub(crate) fn start() -> Self {
        let listener = runtime().block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (mode, modes) = watch::channel(Mode::Open);
        let (target, targets) = watch::channel(None);
        let cuts = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&cuts);
        runtime().spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Some(target) = *targets.borrow() else { continue };
                tokio::spawn(carry(client, target, modes.clone(), Arc::clone(&counted)));
            }
        });
        Self { address, mode, target, cuts }
    }

    pub(crate) fn point_to(&self, target: SocketAddr) {
        self.target.send_replace(Some(target));
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// For connections from now on; those that are open are cut.
    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// How many connections were cut while they carried something, or refused.
    pub(crate) fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Relaxed)
    }
}

async fn carry(
    client: TcpStream,
    target: SocketAddr,
    mut modes: watch::Receiver<Mode>,
    cuts: Arc<AtomicU64>,
) {
    let mode = modes.borrow_and_update().clone();
    let (from_client, from_server) = match mode {
        Mode::Open => (u64::MAX, u64::MAX),
        Mode::Down => {
            cuts.fetch_add(1, Ordering::Relaxed);
            return;
        }
        Mode::Cut { requests, answers } => {
            let mut random = rand::rng();
            match random.random() {
                true => (random.random_range(requests), u64::MAX),
                false => (u64::MAX, random.random_range(answers)),
            }
        }
    };
    let Ok(server) = TcpStream::connect(target).await else { return };
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let cut = tokio::select! {
        cut = copy(client_read, server_write, from_client) => cut,
        cut = copy(server_read, client_write, from_server) => cut,
        _ = modes.changed() => false,
    };
    if cut {
        cuts.fetch_add(1, Ordering::Relaxed);
    }
}

/// Copies until the end, or until so many bytes went by: then it says so.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut left: u64,
) -> bool {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return false };
        let passed = read.min(usize::try_from(left).unwrap_or(usize::MAX));
        if to.write_all(&buffer[..passed]).await.is_err() {
            return false;
        }
        left = left.saturating_sub(passed as u64);
        if left == 0 {
            return true;
        }
    }
}
