//! Memory under connections that are open and send nothing.

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::process::memory_mib;
use crate::report::{float, say};
use crate::server::Server;

/// Below the server's `max_connections`.
const CONNECTIONS: u64 = 9_900;

/// Opens many connections, each of which has had one answer, and reads the server's memory.
pub(crate) async fn measure(server: &Server) -> Result<()> {
    let before = memory_mib(server.pid(), "VmRSS")?;
    let mut open = Vec::new();
    for number in 0..CONNECTIONS {
        let mut tcp = TcpStream::connect(server.http_address()?)
            .await
            .with_context(|| format!("connection {number}; does `ulimit -n` allow them?"))?;
        tcp.write_all(b"GET /livez HTTP/1.1\r\nhost: bench\r\n\r\n").await?;
        let mut answer = [0; 512];
        let bytes = tcp.read(&mut answer).await?;
        anyhow::ensure!(answer.starts_with(b"HTTP/1.1 200"), "{bytes} bytes without a 200");
        open.push(tcp);
    }
    let after = memory_mib(server.pid(), "VmRSS")?;
    say(&format!(
        "Memory with {CONNECTIONS} idle connections: {after:.0} MiB, {before:.0} MiB without; {:.1} KiB each",
        (after - before).max(0.0) * 1024.0 / float(CONNECTIONS)
    ));
    drop(open);
    Ok(())
}
