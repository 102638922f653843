//! Printing figures, and the machine that they hold for.

use std::path::Path;

use anyhow::Result;

/// Says on which machine, with which version and data the figures were measured.
pub(crate) fn machine(binary: &Path) -> Result<()> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let model = model.trim_matches(['\t', ' ', ':']);
    let cores = std::thread::available_parallelism()?;
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let memory = memory.lines().next().unwrap_or_default();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let version = std::process::Command::new(binary).arg("--version").output()?;
    say(&format!(
        "Machine: {cores} cores {model}, {memory}, Linux {}, load before {}\nVersion: {}; Kafka producers: {} with lz4, acks=all, idempotent\nData: generated, 14 of 20 events graded answers, about 290 bytes each; client and broker on the same cores\n",
        kernel.trim(),
        load.split(' ').next().unwrap_or_default(),
        String::from_utf8_lossy(&version.stdout).trim(),
        rdkafka::util::get_rdkafka_version().1,
    ));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^53")]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a non-negative index far below 2^53"
)]
pub(crate) fn round(value: f64) -> usize {
    value.round() as usize
}
