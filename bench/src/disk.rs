//! The disk's own time to make a few bytes durable: no log on it can be faster.

use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;

use crate::load::percentile;

const WRITES: usize = 500;

/// Appends a record's worth of bytes and calls fdatasync, again and again.
pub(crate) fn fsync(folder: &Path) -> Result<String> {
    let path = folder.join("fsync");
    let mut file = std::fs::File::create(&path)?;
    let mut times = Vec::with_capacity(WRITES);
    for _ in 0..WRITES {
        let begun = Instant::now();
        file.write_all(&[0x55; 400])?;
        file.sync_data()?;
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    drop(file);
    std::fs::remove_file(&path)?;
    times.sort_by(f64::total_cmp);
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| percentile(&times, share));
    Ok(format!("write and fdatasync of 400 bytes p50/p99/max {p50:.1}/{p99:.1}/{max:.1} ms"))
}
