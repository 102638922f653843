//! What readers get of the machine: together, and each.
//!
//! A reader's query runs in one of eight lanes and holds a share of all that readers have: sixteenths
//! of memory, of temporary disk, and of threads. Who comes first gets a quarter, later ones an eighth or
//! a sixteenth, so that eight queries never add up to more than there is, and one alone has much.
//! ClickHouse itself keeps each query within its share; nothing has to watch.
//! Always true: the shares that are out are at most 16; a wait for a lane ends within
//! [`WAIT`], with code 202; no setting of a reader loosens a limit.
//! Not here: which settings a reader may set at all (the endpoint).

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Exception;

/// Queries that readers run at a time.
pub(super) const LANES: u32 = 8;
/// Queries that may wait for a lane; more are refused at once.
const WAITING: usize = 64;
/// How long a query waits for a lane.
const WAIT: Duration = Duration::from_secs(5);
/// Shares are counted in sixteenths.
const WHOLE: u32 = 16;

/// Limits on what readers of the embedded ClickHouse use: the application runs in the same process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReaderLimits {
    /// Memory of all queries together, in bytes.
    pub memory_bytes: u64,
    /// Temporary files of all queries together, in bytes.
    pub disk_bytes: u64,
    /// How long a query may run.
    pub timeout: Duration,
}

impl Default for ReaderLimits {
    /// A quarter of the machine's memory, 10 GiB of disk, a minute.
    fn default() -> Self {
        Self {
            memory_bytes: machine_memory_bytes() / 4,
            disk_bytes: 10 << 30,
            timeout: Duration::from_secs(60),
        }
    }
}

/// The memory that this process may use: the machine's, or less where a control group says so.
fn machine_memory_bytes() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let of_machine = meminfo.lines().find_map(|line| {
        let kib = line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?;
        kib.trim().parse::<u64>().ok()?.checked_mul(1024)
    });
    let of_group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let of_group = of_group.and_then(|text| text.trim().parse::<u64>().ok());
    // A machine that says nothing is taken for a small one.
    of_machine.into_iter().chain(of_group).min().unwrap_or(4 << 30)
}

/// A part of what readers have, in sixteenths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Share(u32);

impl Share {
    /// The least one.
    pub(crate) const LEAST: Self = Self(1);

    /// What a query gets where so much is free: a quarter of it, as a power of two. If eight at
    /// most are out, at least one sixteenth is always free.
    fn of_free(free: u32) -> Self {
        match free {
            16.. => Self(4),
            8..16 => Self(2),
            _ => Self::LEAST,
        }
    }

    fn of(self, all: u64) -> u64 {
        all / u64::from(WHOLE) * u64::from(self.0)
    }
}

impl ReaderLimits {
    /// Bytes that a result may have which is made as a whole; it is copied on its way.
    pub(super) fn whole_result_bytes(&self, share: Share) -> usize {
        usize::try_from(share.of(self.memory_bytes) / 8).unwrap_or(usize::MAX)
    }

    /// What ClickHouse keeps a query with that share within.
    fn settings(&self, share: Share, cores: u64) -> [(&'static str, f64); 6] {
        // The rest is for results, which are outside of ClickHouse's count.
        let memory = share.of(self.memory_bytes) / 4 * 3;
        [
            ("max_memory_usage", float(memory)),
            // Before memory ends, the disk is used.
            ("max_bytes_before_external_group_by", float(memory / 2)),
            ("max_bytes_before_external_sort", float(memory / 2)),
            ("max_temporary_data_on_disk_size_for_query", float(share.of(self.disk_bytes))),
            (
                "max_threads",
                float((share.of(2 * cores * u64::from(WHOLE)) / u64::from(WHOLE)).max(1)),
            ),
            ("max_execution_time", self.timeout.as_secs_f64()),
        ]
    }

    /// The settings of a reader's connection: its own ones, of which none loosens a limit.
    pub(super) fn tighten(&self, share: Share, own: &[(String, String)]) -> Vec<(String, String)> {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
        let limits = self.settings(share, cores);
        let mut settings: Vec<_> = own
            .iter()
            .filter(|(name, _)| limits.iter().all(|(limit, _)| limit != name))
            .cloned()
            .collect();
        for (name, limit) in limits {
            // The last of a name counts. 0 stands for no limit, and what is no number sets none.
            let asked = own.iter().rev().find(|(of, _)| of == name);
            let asked = asked.and_then(|(_, value)| value.trim().parse::<f64>().ok());
            let value = asked.filter(|asked| *asked > 0.0).map_or(limit, |asked| asked.min(limit));
            settings.push((name.to_owned(), value.to_string()));
        }
        settings
    }
}

#[expect(clippy::cast_precision_loss, reason = "limits need not be exact beyond 2^53")]
fn float(number: u64) -> f64 {
    number as f64
}

/// The lanes and shares of all readers.
#[derive(Debug)]
pub(super) struct Budget {
    pub(super) limits: ReaderLimits,
    pub(super) lanes: Arc<Semaphore>,
    waiting: Semaphore,
    wait: Duration,
    free: Arc<Mutex<u32>>,
}

/// A lane with a share, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    share: Share,
    free: Option<Arc<Mutex<u32>>>,
    _lane: OwnedSemaphorePermit,
}

impl Place {
    /// A place of one that has no share: the application itself.
    pub(super) fn without_share(lane: OwnedSemaphorePermit) -> Self {
        Self { share: Share::LEAST, free: None, _lane: lane }
    }

    pub(crate) fn share(&self) -> Share {
        self.share
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(free) = &self.free {
            *free.lock() += self.share.0;
        }
    }
}

impl Budget {
    pub(super) fn new(limits: ReaderLimits) -> Self {
        Self {
            limits,
            lanes: Arc::new(Semaphore::new(LANES as usize)),
            waiting: Semaphore::new(WAITING),
            wait: WAIT,
            free: Arc::new(Mutex::new(WHOLE)),
        }
    }

    /// A lane, if one is free within [`WAIT`]. `None` if the engine is closed.
    pub(super) async fn enter(&self) -> Result<Option<Place>, Exception> {
        let _waiting = self.waiting.try_acquire().map_err(|_full| too_many())?;
        let lane = Arc::clone(&self.lanes).acquire_owned();
        let lane = tokio::time::timeout(self.wait, lane).await.map_err(|_elapsed| too_many())?;
        let Ok(lane) = lane else { return Ok(None) };
        let mut free = self.free.lock();
        let share = Share::of_free(*free);
        debug_assert!(share.0 <= *free, "eight shares are more than there is");
        *free = free.saturating_sub(share.0);
        drop(free);
        Ok(Some(Place { share, free: Some(Arc::clone(&self.free)), _lane: lane }))
    }
}

fn too_many() -> Exception {
    let message = format_args!(
        "Too many simultaneous queries of readers: {LANES} run, and none of them ended within {} s; \
         try again later",
        WAIT.as_secs()
    );
    Exception::new(202, "TOO_MANY_SIMULTANEOUS_QUERIES", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ReaderLimits = ReaderLimits {
        memory_bytes: 16 << 20,
        disk_bytes: 32 << 20,
        timeout: Duration::from_secs(60),
    };

    /// Every way to come and go of up to eight, as far as the free sixteenths tell them apart.
    #[test]
    fn eight_shares_are_never_more_than_there_is() {
        let mut seen = std::collections::BTreeSet::new();
        let mut next = vec![Vec::<u32>::new()];
        while let Some(out) = next.pop() {
            if !seen.insert(out.clone()) {
                continue;
            }
            let free = WHOLE - out.iter().sum::<u32>();
            if out.len() < LANES as usize {
                let share = Share::of_free(free).0;
                assert!(share <= free, "{out:?}");
                let mut more = [&out[..], &[share]].concat();
                more.sort_unstable();
                next.push(more);
            }
            next.extend((0..out.len()).map(|gone| {
                let mut fewer = out.clone();
                fewer.remove(gone);
                fewer
            }));
        }
        assert!(seen.len() > 20, "{}", seen.len());
    }

    #[track_caller]
    fn check(share: u32, own: &[(&str, &str)], name: &str, expected: &str) {
        let own: Vec<_> = own.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let settings = LIMITS.tighten(Share(share), &own);
        let all: Vec<_> = settings.iter().filter(|(of, _)| of == name).collect();
        assert!(matches!(all.as_slice(), [(_, value)] if value == expected), "{settings:?}");
    }

    #[test]
    fn settings_tighten_and_never_loosen() {
        check(4, &[], "max_memory_usage", "3145728");
        check(1, &[("max_memory_usage", "0")], "max_memory_usage", "786432");
        check(1, &[("max_memory_usage", "1000")], "max_memory_usage", "1000");
        check(2, &[], "max_temporary_data_on_disk_size_for_query", "4194304");
        check(1, &[("max_execution_time", "600")], "max_execution_time", "60");
        check(1, &[("max_execution_time", "5.0")], "max_execution_time", "5");
        check(1, &[("max_execution_time", "0.5")], "max_execution_time", "0.5");
        check(1, &[("max_execution_time", "nan")], "max_execution_time", "60");
        check(1, &[("max_execution_time", "-1")], "max_execution_time", "60");
        check(1, &[("max_execution_time", "x")], "max_execution_time", "60");
        check(1, &[("max_threads", "1"), ("extremes", "1")], "max_threads", "1");
        check(1, &[("extremes", "1")], "extremes", "1");
        let threads = |share| LIMITS.settings(Share(share), 16)[4].1;
        assert_eq!([threads(4), threads(2), threads(1)], [8.0, 4.0, 2.0]);
    }

    #[tokio::test]
    async fn a_wait_for_a_lane_ends_and_too_many_do_not_wait() {
        let wait = Duration::from_millis(200);
        let budget = Arc::new(Budget { wait, ..Budget::new(LIMITS) });
        let mut places = Vec::new();
        for _ in 0..LANES {
            places.push(budget.enter().await.unwrap().unwrap());
        }
        assert_eq!(places[0].share(), Share(4));
        let begun = std::time::Instant::now();
        assert_eq!(budget.enter().await.unwrap_err().code, 202);
        assert!(begun.elapsed() >= wait);
        let waiting: Vec<_> = (0..WAITING)
            .map(|_| {
                let budget = Arc::clone(&budget);
                tokio::task::JoinSet::from_iter([async move { budget.enter().await }])
            })
            .collect();
        while budget.waiting.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let begun = std::time::Instant::now();
        assert_eq!(budget.enter().await.unwrap_err().code, 202);
        assert!(begun.elapsed() < wait / 2, "it waited although the queue was full");
        drop(waiting);
        drop(places);
        while budget.waiting.available_permits() < WAITING {
            tokio::task::yield_now().await;
        }
        assert_eq!(budget.enter().await.unwrap().unwrap().share(), Share(4));
    }
}
