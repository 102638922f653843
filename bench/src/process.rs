//! What the system says of a process: processor time and memory.

use anyhow::{Context, Result};

use crate::report::float;

/// The kernel's clock ticks a second, as `/proc` counts; the same on every Linux.
const TICKS: f64 = 100.0;

/// Seconds of processor time so far, user and system.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold spaces; utime and stime are the 14th and 15th field.
    let (_, rest) = stat.rsplit_once(") ").context("/proc/…/stat has a name")?;
    let mut fields = rest.split(' ').skip(11);
    let mut ticks =
        || fields.next().context("/proc/…/stat is short")?.parse::<u64>().map_err(Into::into);
    let (user, system): (Result<u64>, Result<u64>) = (ticks(), ticks());
    Ok(float(user? + system?) / TICKS)
}

/// A value of `/proc/<pid>/status` in MiB, such as `VmRSS` or `VmHWM` (the largest so far).
pub(crate) fn memory_mib(pid: u32, name: &str) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib =
        line.and_then(|line| line.split_whitespace().next()).with_context(|| name.to_owned())?;
    Ok(float(kib.parse()?) / 1024.0)
}
