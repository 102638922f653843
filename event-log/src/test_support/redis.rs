//! A Redis server for tests, which can be killed, paused and started again.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A running server. It ends with the process that asked for it, however that ends.
#[derive(Debug)]
pub struct RedisServer {
    address: String,
    pid: u32,
    // Its standard input is the pipe that keeps the server alive.
    script: Child,
}

impl RedisServer {
    /// Starts one whose port lies in the folder: started there again, it has the same, and no data.
    /// `None` skips: something is missing, and `CHALKSTREAM_ALLOW_SKIP=1` allows to go on without.
    pub fn start_on(folder: &Path, arguments: &str) -> Option<Self> {
        match start(folder, arguments) {
            Ok(server) => Some(server),
            Err(reason) if std::env::var("CHALKSTREAM_ALLOW_SKIP").as_deref() == Ok("1") => {
                println!("skipped: {reason}");
                None
            }
            Err(reason) => panic!("{reason}"),
        }
    }

    /// Where it listens: `127.0.0.1:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sends the server's process a signal, such as `-STOP`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.pid.to_string()]).status().unwrap();
        assert!(sent.success(), "kill {name} {}: {sent}", self.pid);
    }

    /// kill -9, and waits for its end.
    pub fn kill(self) {
        self.signal("-KILL");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // The end of its input ends the script, and that the server.
        drop(self.script.stdin.take());
        drop(self.script.wait());
    }
}

fn start(folder: &Path, arguments: &str) -> Result<RedisServer, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/dev/redis");
    let mut child = Command::new(&script)
        .arg("run")
        .arg(folder)
        .env("REDIS_ARGS", arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("could not run {}: {error}", script.display()))?;
    let mut line = String::new();
    let mut answer = BufReader::new(child.stdout.take().unwrap());
    answer.read_line(&mut line).map_err(|error| error.to_string())?;
    let mut words = line.split_whitespace();
    let address = words.next().and_then(|word| word.strip_prefix("address="));
    let pid = words.next().and_then(|word| word.strip_prefix("pid="));
    let (Some(address), Some(Ok(pid))) = (address, pid.map(str::parse)) else {
        let said = child.wait_with_output().map_err(|error| error.to_string())?;
        return Err(String::from_utf8_lossy(&said.stderr).trim().to_owned());
    };
    Ok(RedisServer { address: address.to_owned(), pid, script: child })
}
