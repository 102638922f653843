//! A TCP proxy before ClickHouse that can be down.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    down: Arc<watch::Sender<bool>>,
}

impl Proxy {
    /// Forwards to `target`, except while it is down.
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let down = Arc::new(watch::Sender::new(false));
        let watched = down.subscribe();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut watched = watched.clone();
                if *watched.borrow_and_update() {
                    continue; // Dropped: the client sees a reset.
                }
                tokio::spawn(async move {
                    let Ok(mut server) = TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        _ = watched.wait_for(|down| *down) => {}
                    }
                });
            }
        });
        Self { address, down }
    }

    /// Cuts every connection, also in the middle of an insert, and refuses new ones.
    pub(crate) fn set_down(&self, down: bool) {
        self.down.send_replace(down);
    }
}
