//! Runs the built binary: commands to their end, and `standalone` until it is stopped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const READY_DEADLINE: Duration = Duration::from_secs(120);
const FOLD_DEADLINE: Duration = Duration::from_secs(300);
const STOP_DEADLINE: Duration = Duration::from_secs(60);
const STANDALONE: [&str; 5] =
    ["standalone", "--listen", "127.0.0.1:0", "--clickhouse-listen", "127.0.0.1:0"];

/// Where the tests' own HTTP clients run.
pub(crate) fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Runtime::new().unwrap())
}

/// `CHALKSTREAM_BIN`, else the binary that cargo built for this test.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("CHALKSTREAM_BIN").map_or_else(
        || PathBuf::from(env!("CARGO_BIN_EXE_chalkstream")),
        |path| Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path),
    )
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// It ended with this code, and each part stands in what it said on standard error.
    #[track_caller]
    pub(crate) fn check(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        for part in parts {
            assert!(self.stderr.contains(part), "`{part}` is missing in:\n{}", self.stderr);
        }
        self
    }

    /// Its standard output as one JSON value.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

/// A command in a data folder, with nothing of the caller's environment that could change it.
pub(crate) fn command(data_dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args).arg("--data-dir").arg(data_dir).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        let ours = name.to_str().is_some_and(|name| name.starts_with("CHALKSTREAM_"));
        if ours && name != "CHALKSTREAM_LIBCHDB" {
            command.env_remove(name);
        }
    }
    command
}

/// Runs it to its end.
#[track_caller]
pub(crate) fn ended(mut command: Command) -> Ended {
    let output = command.output().unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[track_caller]
pub(crate) fn run(data_dir: &Path, args: &[&str]) -> Ended {
    ended(command(data_dir, args))
}

/// The same in another configuration.
#[track_caller]
pub(crate) fn run_with(data_dir: &Path, args: &[&str], environment: &Environment) -> Ended {
    let mut command = command(data_dir, args);
    command.envs(environment.iter().cloned());
    ended(command)
}

/// The answer of a ClickHouse endpoint, as anybody on this machine gets it: as `reader`.
#[track_caller]
pub(crate) fn ask(url: &str, query: &str) -> String {
    let answer = runtime().block_on(async {
        let answer = reqwest::Client::new().post(url).body(query.to_owned()).send().await?;
        let status = answer.status();
        Ok::<_, reqwest::Error>((status, answer.text().await?))
    });
    let (status, text) = answer.unwrap();
    assert!(status.is_success(), "{query}\n{status}: {text}");
    text
}

/// A number that the environment may set.
pub(crate) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Waits for a condition, and says at its deadline what was awaited.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + FOLD_DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited {FOLD_DEADLINE:?} until {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A command that must succeed with one JSON value.
#[track_caller]
pub(crate) fn json(data_dir: &Path, args: &[&str]) -> Value {
    let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
    run(data_dir, &args).check(0, &[]).json()
}

/// Sends a signal to a process that the test started.
#[track_caller]
pub(crate) fn signal_to(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

/// Variables of the environment that make another configuration.
pub(crate) type Environment = Vec<(String, String)>;

/// Keys such as `log.kind` as variables.
pub(crate) fn settings(pairs: &[(&str, &str)]) -> Environment {
    let variable = |key: &str| format!("CHALKSTREAM__{}", key.to_uppercase().replace('.', "__"));
    pairs.iter().map(|(key, value)| (variable(key), (*value).to_owned())).collect()
}

/// A running role; killed when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    process: Child,
    pub(crate) data_dir: PathBuf,
    pub(crate) runtime: Value,
    environment: Environment,
}

impl Running {
    /// Starts it on free ports and waits until it has announced itself.
    #[track_caller]
    pub(crate) fn start(data_dir: &Path) -> Self {
        Self::start_with(data_dir, &[])
    }

    /// The same with variables of the environment, such as another log.
    #[track_caller]
    pub(crate) fn start_with(data_dir: &Path, environment: &[(&str, &str)]) -> Self {
        let mut running = Self::spawn(data_dir, |command| {
            command.envs(environment.iter().copied());
        });
        running.wait_until_ready();
        running
    }

    /// Starts one role so, and runs every command on its folder with the same configuration.
    #[track_caller]
    pub(crate) fn start_role(role: &str, data_dir: &Path, environment: &Environment) -> Self {
        let listen: &[&str] = match role {
            "standalone" => &STANDALONE[1..],
            "ingest" => &["--listen", "127.0.0.1:0"],
            _ => &[],
        };
        let mut running = Self::spawn_as(&[&[role][..], listen].concat(), data_dir, |command| {
            command.envs(environment.iter().cloned());
        });
        running.environment.clone_from(environment);
        running.wait_until_ready();
        running
    }

    /// Starts it as `prepare` wants it, and waits for nothing.
    #[track_caller]
    pub(crate) fn spawn(data_dir: &Path, prepare: impl FnOnce(&mut Command)) -> Self {
        Self::spawn_as(&STANDALONE, data_dir, prepare)
    }

    fn spawn_as(args: &[&str], data_dir: &Path, prepare: impl FnOnce(&mut Command)) -> Self {
        std::fs::create_dir_all(data_dir).unwrap();
        let file = |ending| std::fs::File::create(data_dir.with_extension(ending)).unwrap();
        let mut command = command(data_dir, args);
        prepare(&mut command);
        let process = command.stdout(file("out")).stderr(file("err")).spawn().unwrap();
        let data_dir = data_dir.to_owned();
        Self { process, data_dir, runtime: Value::Null, environment: Vec::new() }
    }

    /// Its number.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    #[track_caller]
    pub(crate) fn wait_until_ready(&mut self) {
        let pid = u64::from(self.pid());
        let deadline = Instant::now() + READY_DEADLINE;
        loop {
            let text = std::fs::read_to_string(self.data_dir.join("runtime.json"));
            let runtime: Value =
                serde_json::from_str(&text.unwrap_or_default()).unwrap_or_default();
            // A killed process leaves its file behind: the pid tells.
            if runtime["pid"].as_u64() == Some(pid) {
                self.runtime = runtime;
                return;
            }
            if let Some(status) = self.process.try_wait().unwrap() {
                panic!("it ended with {status}:\n{}", self.said("err"));
            }
            assert!(Instant::now() < deadline, "not ready:\n{}", self.said("err"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it wrote to `out` or `err`.
    pub(crate) fn said(&self, ending: &str) -> String {
        std::fs::read_to_string(self.data_dir.with_extension(ending)).unwrap_or_default()
    }

    /// Everything that it says once it is ready. It comes after `runtime.json`: whoever reads it
    /// may run a command at once.
    #[track_caller]
    pub(crate) fn greeting(&self) -> String {
        let deadline = Instant::now() + READY_DEADLINE;
        loop {
            let said = self.said("out");
            if said.ends_with("Ctrl-C stops it.\n") {
                return said;
            }
            assert!(Instant::now() < deadline, "no greeting:\n{said}\n{}", self.said("err"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn http_url(&self) -> &str {
        self.runtime["http_url"].as_str().unwrap()
    }

    /// The ClickHouse that its rows go to.
    pub(crate) fn clickhouse_url(&self) -> &str {
        self.runtime["clickhouse_url"].as_str().unwrap()
    }

    #[track_caller]
    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        run_with(&self.data_dir, args, &self.environment)
    }

    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        self.run(&args).check(0, &[]).json()
    }

    /// Rows of a query, one JSON object each.
    #[track_caller]
    pub(crate) fn sql(&self, query: &str) -> Vec<Value> {
        let ended = self.run(&["sql", query, "--json"]).check(0, &[]);
        ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The answer of the ClickHouse endpoint, as anybody on this machine gets it.
    #[track_caller]
    pub(crate) fn ask(&self, query: &str) -> String {
        ask(self.clickhouse_url(), query)
    }

    /// A new write key.
    #[track_caller]
    pub(crate) fn create_key(&self, school: &str, scope: &str) -> String {
        let created = self.json(&["keys", "create", "--school", school, "--scope", scope]);
        created["key"].as_str().unwrap().to_owned()
    }

    /// Waits until everything acknowledged is in the views.
    #[track_caller]
    pub(crate) fn wait_until_visible(&self) {
        self.wait_until_no(&["processor_lag"]);
    }

    /// Waits until everything acknowledged is in the views and in the lake.
    #[track_caller]
    pub(crate) fn wait_until_archived(&self) {
        self.wait_until_no(&["processor_lag", "archive_lag"]);
    }

    #[track_caller]
    fn wait_until_no(&self, lags: &[&str]) {
        let deadline = Instant::now() + FOLD_DEADLINE;
        loop {
            let doctor = self.json(&["doctor"]);
            if lags.iter().all(|lag| doctor[lag] == 0) {
                return;
            }
            assert!(Instant::now() < deadline, "still behind: {doctor}\n{}", self.said("err"));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Sends a signal.
    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        signal_to(self.pid(), signal);
    }

    /// Sends a signal and waits for the end.
    #[track_caller]
    pub(crate) fn stop(mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.wait_for_end()
    }

    /// The configuration that it was started with.
    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }

    #[track_caller]
    pub(crate) fn wait_for_end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + STOP_DEADLINE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "did not stop:\n{}", self.said("err"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            self.process.kill().unwrap();
            self.process.wait().unwrap();
        }
    }
}
