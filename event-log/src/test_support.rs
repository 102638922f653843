//! Help for tests of this crate and of those above it: one Kafka broker a process.
//!
//! Always true: the broker ends with the process that asked for it, however that ends, since the
//! script that runs it waits on a pipe from here.
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "for tests only")]

mod redis;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub use self::redis::RedisServer;

/// A running broker.
#[derive(Debug)]
pub struct Broker {
    bootstrap: String,
    pid: u32,
    // Its standard input is the pipe that keeps the broker alive.
    script: Child,
}

impl Broker {
    /// Where it listens: `127.0.0.1:port`.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// The process of the broker itself.
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Starts one more broker, for a test that troubles it; the error says what is missing.
    pub fn start() -> Result<Self, String> {
        start(None, None)
    }

    /// The same on a folder, whose data stay: started there again, it has them, and its address.
    /// A new one sends its clients to the port `advertised`, if there is one.
    pub fn start_on(folder: &Path, advertised: Option<u16>) -> Result<Self, String> {
        start(Some(folder), advertised)
    }

    /// Sends the broker's process a signal, such as `-STOP`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.pid.to_string()]).status().unwrap();
        assert!(sent.success(), "kill {name} {}: {sent}", self.pid);
    }

    /// Stops it as an administrator does, and waits for its end.
    pub fn stop(self) {
        self.signal("-TERM");
        let deadline = Instant::now() + Duration::from_secs(30);
        let stat = format!("/proc/{}/stat", self.pid);
        // A zombie has ended: its script, which is its parent, may not have noticed yet.
        let runs = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
        while runs() {
            assert!(Instant::now() < deadline, "the broker {} did not stop", self.pid);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// kill -9, and waits for its end.
    pub fn kill(self) {
        self.signal("-KILL");
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // The end of its input ends the script, and that the broker.
        drop(self.script.stdin.take());
        drop(self.script.wait());
    }
}

/// The broker of this process, started when it is first asked for. `None` skips: something is
/// missing that it needs, and `CHALKSTREAM_ALLOW_SKIP=1` allows to go on without.
pub fn kafka() -> Option<&'static Broker> {
    static BROKER: OnceLock<Result<Broker, String>> = OnceLock::new();
    match BROKER.get_or_init(Broker::start) {
        Ok(broker) => Some(broker),
        Err(reason) if std::env::var("CHALKSTREAM_ALLOW_SKIP").as_deref() == Ok("1") => {
            println!("skipped: {reason}");
            None
        }
        Err(reason) => panic!("{reason}"),
    }
}

/// A prefix for topics and groups that no other test uses.
pub fn unique_prefix() -> String {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    format!("t{}-{serial}.", std::process::id())
}

fn start(folder: Option<&Path>, advertised: Option<u16>) -> Result<Broker, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/dev/kafka");
    let mut child = Command::new(&script)
        .arg("run")
        .args(folder)
        .envs(advertised.map(|port| ("KAFKA_ADVERTISED", port.to_string())))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("could not run {}: {error}", script.display()))?;
    let mut line = String::new();
    let mut answer = BufReader::new(child.stdout.take().unwrap());
    answer.read_line(&mut line).map_err(|error| error.to_string())?;
    let mut words = line.split_whitespace();
    let bootstrap = words.next().and_then(|word| word.strip_prefix("bootstrap="));
    let pid = words.next().and_then(|word| word.strip_prefix("pid="));
    let (Some(bootstrap), Some(Ok(pid))) = (bootstrap, pid.map(str::parse)) else {
        let said = child.wait_with_output().map_err(|error| error.to_string())?;
        return Err(String::from_utf8_lossy(&said.stderr).trim().to_owned());
    };
    Ok(Broker { bootstrap: bootstrap.to_owned(), pid, script: child })
}
