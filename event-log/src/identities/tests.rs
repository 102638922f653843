use super::*;

fn entry(number: u64) -> Entry {
    let hash = *blake3::hash(&number.to_be_bytes()).as_bytes();
    let (identity, content) = hash.split_first_chunk().unwrap();
    let content = ContentHash::from_bytes(*content.first_chunk().unwrap());
    (EventIdentity::from_bytes(*identity), content)
}

fn add(index: &Identities, run: u64, entries: &[Entry]) {
    let mut batch = index.db.batch();
    index.add(&mut batch, run, entries);
    batch.commit().unwrap();
    index.applied(run, entries);
}

fn lookup(index: &Identities, ids: &[EventIdentity]) -> Vec<Option<ContentHash>> {
    index.complete(ids, index.recall(ids)).unwrap()
}

/// At every step of sealing, and after a crash at any of them, the same entries are found.
#[test]
fn sealing_moves_entries_and_loses_none() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Database::builder(folder.path()).open().unwrap();
    let limits = Limits { horizon: Some(Duration::from_secs(4)), max_entries: u64::MAX };
    let mut db = open();
    let mut index = Identities::open(&db, &folder.path().join("tables"), limits).unwrap();
    let entries: Vec<_> = (0..3_000).map(entry).collect();
    let ids: Vec<_> = entries.iter().map(|(identity, _)| *identity).collect();
    for (step, chunk) in entries.chunks(500).enumerate() {
        let run = step as u64 + 1;
        add(&index, run, chunk);
        if step % 2 == 1 {
            index.seal(1_000).unwrap();
            // Sealed twice, as after a crash before the runs were removed.
            add(&index, run, chunk);
        }
        if step % 3 == 2 {
            drop(index);
            drop(db);
            db = open();
            index = Identities::open(&db, &folder.path().join("tables"), limits).unwrap();
        }
        let found = lookup(&index, &ids);
        let known = (step + 1) * 500;
        for (at, (found, (_, content))) in found.iter().zip(&entries).enumerate() {
            assert_eq!(*found, (at < known).then_some(*content), "entry {at} in step {step}");
        }
    }
    index.seal(1_000).unwrap();
    assert_eq!(index.runs.iter().count(), 0, "what is sealed is kept once");
    assert!(index.len() >= 3_000, "what was sealed twice may count twice");
    index.drop_before(2_000).unwrap();
    assert!(lookup(&index, &ids).iter().all(Option::is_none));
    assert_eq!(index.len(), 0);
}

/// Beyond the limit the oldest go; a clock that is set back or forth loses nothing else.
#[test]
fn entries_are_bounded_and_the_oldest_go_first() {
    let folder = tempfile::tempdir().unwrap();
    let db = Database::builder(folder.path()).open().unwrap();
    let limits = Limits { horizon: Some(Duration::from_secs(3_600)), max_entries: 4_000 };
    let index = Identities::open(&db, &folder.path().join("tables"), limits).unwrap();
    let entries: Vec<_> = (0..20_000).map(entry).collect();
    let clock = [10_000_000, 6_400_000, 10_000_500, 90_000_000, 10_001_000];
    for (step, chunk) in entries.chunks(500).enumerate() {
        add(&index, step as u64 + 1, chunk);
        index.seal(clock[step % clock.len()]).unwrap();
        assert!(index.len() <= 4_000, "{} in step {step}", index.len());
        let recent = entries[..(step + 1) * 500].iter().rev().take(2_500);
        let (recent, contents): (Vec<_>, Vec<_>) =
            recent.map(|entry| (entry.0, Some(entry.1))).unzip();
        assert_eq!(lookup(&index, &recent), contents, "in step {step}");
    }
}

/// However many generations there are, and after a restart as well, the store is asked for hardly
/// any new identity.
#[test]
fn new_identities_are_known_to_be_new_without_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Database::builder(folder.path()).open().unwrap();
    let limits = Limits { horizon: Some(Duration::from_secs(3_600)), max_entries: 40_000 };
    let mut db = open();
    let mut index = Identities::open(&db, &folder.path().join("tables"), limits).unwrap();
    let entries: Vec<_> = (0..30_000).map(entry).collect();
    for (step, chunk) in entries.chunks(1_000).enumerate() {
        add(&index, step as u64 + 1, chunk);
        // The last ones stay in memory.
        if step < 28 {
            index.seal(10_000_000).unwrap();
        }
    }
    let new: Vec<_> = (30_000..60_000).map(|number| entry(number).0).collect();
    let old: Vec<_> = entries.iter().map(|(identity, _)| *identity).collect();
    for restarted in [false, true] {
        if restarted {
            drop(index);
            drop(db);
            db = open();
            index = Identities::open(&db, &folder.path().join("tables"), limits).unwrap();
            while index.filters.load().iter().any(|filter| !filter.is_complete()) {
                std::thread::yield_now();
            }
        }
        assert!(index.filters.load().len() >= 4, "as many filters as parts");
        let unsure = index.recall(&new).unsure.len();
        assert!(unsure < 60, "{unsure} of {} new ones, restarted {restarted}", new.len());
        assert!(lookup(&index, &old).iter().all(Option::is_some), "restarted {restarted}");
    }
}

/// A store whose generations have all gone, several times and with restarts between, keeps what is
/// written next.
#[test]
fn what_is_written_after_everything_was_forgotten_stays() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { horizon: Some(Duration::from_secs(4)), max_entries: u64::MAX };
    for round in 0..5 {
        let entries: Vec<_> = (round * 100..(round + 1) * 100).map(entry).collect();
        let ids: Vec<_> = entries.iter().map(|(identity, _)| *identity).collect();
        let known: Vec<_> = entries.iter().map(|(_, content)| Some(*content)).collect();
        let now_ms = round * 100_000;
        for restart in 0..3 {
            let db = Database::builder(folder.path().join("runs")).open().unwrap();
            let index = Identities::open(&db, &folder.path().join("tables"), limits).unwrap();
            if restart == 0 {
                add(&index, index.newest_run() + 1, &entries);
                index.seal(now_ms).unwrap();
            }
            assert_eq!(lookup(&index, &ids), known, "round {round}, restart {restart}");
            if restart == 2 {
                index.drop_before(now_ms + 10_000).unwrap();
                assert!(lookup(&index, &ids).iter().all(Option::is_none));
                assert_eq!(index.len(), 0);
            }
        }
    }
}
