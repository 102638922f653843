//! Reservations: which ids are on their way to the log, and whose they are.
//!
//! Always true: an identity has at most one holder; it is free again when its [`Reserved`] drops,
//! however its request ended; waiting needs no lock and holds nothing; no lock is shared by all
//! requests (64 shards), and a request takes each once.
//! Not here: what was committed before (`SeenIndex`), and what to do about either
//! ([`crate::pipeline`]).

use std::sync::Arc;

use chalkstream_schemas::EventIdentity;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use parking_lot::Mutex;
use tokio::sync::watch;

const SHARDS: u32 = 64;
/// A shard takes the other 6 of 32 bits; a request has far fewer events than 2^26.
const PLACE_BITS: u32 = 26;

type Shard = Mutex<HashMap<EventIdentity, Arc<Holder>>>;

/// Every reservation of this process.
#[derive(Debug)]
pub(crate) struct Reservations {
    shards: [Shard; SHARDS as usize],
}

/// One request's turn; `true` once it has let go.
#[derive(Debug)]
struct Holder {
    released: watch::Sender<bool>,
}

impl Reservations {
    pub(crate) fn new() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()) }
    }

    /// Reserves what is free. For each identity, in order: `None` if it is ours now, else whom to
    /// wait for. The identities differ from one another.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        identities: &[EventIdentity],
    ) -> (Reserved, Vec<Option<Contested>>) {
        let holder = Arc::new(Holder { released: watch::Sender::new(false) });
        let mut contested = Vec::new();
        contested.resize_with(identities.len(), || None);
        self.each_shard(identities, |shard, place, identity| match shard.entry(identity) {
            Entry::Vacant(free) => {
                free.insert(Arc::clone(&holder));
            }
            Entry::Occupied(held) => {
                if let Some(contested) = contested.get_mut(place) {
                    *contested = Some(Contested(held.get().released.subscribe()));
                }
            }
        });
        let free = identities.iter().zip(&contested).filter(|(_, holder)| holder.is_none());
        let ours = free.map(|(identity, _)| *identity).collect();
        (Reserved { reservations: Arc::clone(self), holder, identities: ours }, contested)
    }

    /// How many ids are reserved now.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Calls back with every identity, its place, and its shard, one shard after another.
    fn each_shard(
        &self,
        identities: &[EventIdentity],
        mut each: impl FnMut(&mut HashMap<EventIdentity, Arc<Holder>>, usize, EventIdentity),
    ) {
        // An identity is a hash already: any byte of it is spread evenly. Shard and place as one
        // number sort fastest.
        let shard_and_place = |(place, identity): (u32, &EventIdentity)| {
            let [first, ..] = *identity.as_bytes();
            (u32::from(first) % SHARDS) << PLACE_BITS | place
        };
        let mut order: Vec<u32> = (0..).zip(identities).map(shard_and_place).collect();
        order.sort_unstable();
        for group in order.chunk_by(|a, b| a >> PLACE_BITS == b >> PLACE_BITS) {
            let shard = group.first().map(|first| (first >> PLACE_BITS) as usize);
            let Some(shard) = shard.and_then(|shard| self.shards.get(shard)) else { continue };
            let mut shard = shard.lock();
            for place in group.iter().map(|both| (both % (1 << PLACE_BITS)) as usize) {
                if let Some(identity) = identities.get(place) {
                    each(&mut shard, place, *identity);
                }
            }
        }
    }
}

/// Ids that are ours until this drops.
#[derive(Debug)]
pub(crate) struct Reserved {
    reservations: Arc<Reservations>,
    holder: Arc<Holder>,
    identities: Vec<EventIdentity>,
}

impl Reserved {
    /// The ids, in the order they were asked for.
    pub(crate) fn identities(&self) -> &[EventIdentity] {
        &self.identities
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.reservations.each_shard(&self.identities, |shard, _, identity| {
            shard.remove(&identity);
        });
        // After the ids are free: who wakes up may reserve them.
        self.holder.released.send_replace(true);
    }
}

/// An id that another request holds.
#[derive(Debug)]
pub(crate) struct Contested(watch::Receiver<bool>);

impl Contested {
    /// Waits until the holder has let go, whatever became of its event.
    pub(crate) async fn released(mut self) {
        // An error means that the holder is gone altogether, which is the same.
        if let Err(gone) = self.0.wait_for(|released| *released).await {
            tracing::trace!(%gone, "the holder of an id is gone");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(n: u8) -> EventIdentity {
        EventIdentity::from_bytes([n; 16])
    }

    #[tokio::test]
    async fn an_id_has_one_holder_and_others_wait() {
        let reservations = Arc::new(Reservations::new());
        let (first, contested) = reservations.reserve(&[identity(1), identity(65)]);
        assert!(contested.iter().all(Option::is_none));
        let (second, mut contested) = reservations.reserve(&[identity(1), identity(2)]);
        assert_eq!(second.identities(), [identity(2)]);
        assert!(contested.pop().unwrap().is_none());
        assert_eq!(reservations.len(), 3);

        let mut wait = tokio_test_future(contested.pop().unwrap().unwrap().released());
        assert!(!wait.is_finished_soon().await);
        drop(first);
        wait.finished().await;
        drop(second);
        assert_eq!(reservations.len(), 0);
        let (third, contested) = reservations.reserve(&[identity(1)]);
        assert!(contested.iter().all(Option::is_none));
        assert_eq!(third.identities(), [identity(1)]);
    }

    struct Waiting(tokio::task::JoinHandle<()>);

    fn tokio_test_future(future: impl Future<Output = ()> + Send + 'static) -> Waiting {
        Waiting(tokio::spawn(future))
    }

    impl Waiting {
        async fn is_finished_soon(&mut self) -> bool {
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            self.0.is_finished()
        }

        async fn finished(self) {
            let limit = std::time::Duration::from_secs(5);
            tokio::time::timeout(limit, self.0).await.expect("the wait never ended").unwrap();
        }
    }
}
