//! A small file that says how much was acknowledged, so that a loss cannot go unnoticed.
//!
//! The store recovers a torn journal by cutting it at the first entry that does not read, which is
//! right for what a crash left half-written and wrong for damage to what was acknowledged. This
//! file tells the two apart.
//!
//! Always true: it never names a commit that is not durable. It is written after each commit and
//! before anyone hears of it, without an fsync of its own: after kill -9 it is exact, after a loss
//! of power it may be some seconds behind.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const SLOT_BYTES: usize = 32;
const MAGIC: [u8; 7] = *b"chalk-1";

/// What the file says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Acknowledged {
    /// The newest commit that anyone was told of.
    pub(super) commit: u64,
    /// Whether the log was closed after it, with nothing under way.
    pub(super) closed: bool,
}

/// The file, open. Two slots are written in turn, so that a torn write leaves the other.
#[derive(Debug)]
pub(super) struct Marker {
    file: File,
    turn: bool,
}

impl Marker {
    /// Opens the file, creating it if there is none; `None` where nothing readable is in it.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Option<Acknowledged>)> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut newest: Option<(Acknowledged, bool)> = None;
        for turn in [false, true] {
            let mut slot = [0; SLOT_BYTES];
            let read = match file.read_exact_at(&mut slot, slot_at(turn)) {
                Ok(()) => parse(&slot),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
                Err(error) => return Err(error),
            };
            // At the same commit the later slot is the one that closed or reopened the log; which
            // one that is does not matter for what was acknowledged, and not closed is the safe
            // reading.
            newest = match (newest, read) {
                (Some((old, _)), Some(new)) if new.commit > old.commit => Some((new, turn)),
                (Some((old, at)), Some(new)) if new.commit == old.commit => {
                    Some((Acknowledged { closed: old.closed && new.closed, ..old }, at))
                }
                (None, Some(new)) => Some((new, turn)),
                (old, _) => old,
            };
        }
        let turn = newest.is_some_and(|(_, turn)| !turn);
        Ok((Self { file, turn }, newest.map(|(acknowledged, _)| acknowledged)))
    }

    /// Says that everything up to `commit` is durable.
    pub(super) fn acknowledge(&mut self, commit: u64) -> io::Result<()> {
        self.write(Acknowledged { commit, closed: false })
    }

    /// Says in both slots how the log stands, and waits until the disk has it.
    pub(super) fn settle(&mut self, state: Acknowledged) -> io::Result<()> {
        self.write(state)?;
        self.write(state)?;
        self.file.sync_all()
    }

    fn write(&mut self, state: Acknowledged) -> io::Result<()> {
        self.file.write_all_at(&format(state), slot_at(self.turn))?;
        self.turn = !self.turn;
        Ok(())
    }
}

const fn slot_at(turn: bool) -> u64 {
    if turn { SLOT_BYTES as u64 } else { 0 }
}

fn format(state: Acknowledged) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    let body: Vec<u8> = MAGIC
        .into_iter()
        .chain([u8::from(state.closed)])
        .chain(state.commit.to_le_bytes())
        .collect();
    let sum = blake3::hash(&body);
    for (to, from) in slot.iter_mut().zip(body.iter().chain(sum.as_bytes())) {
        *to = *from;
    }
    slot
}

fn parse(slot: &[u8; SLOT_BYTES]) -> Option<Acknowledged> {
    let closed = match slot.get(7)? {
        0 => false,
        1 => true,
        _ => return None,
    };
    let state = Acknowledged { commit: u64::from_le_bytes(*slot.get(8..)?.first_chunk()?), closed };
    (format(state) == *slot).then_some(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_whole_slot_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("acknowledged");
        let (mut marker, found) = Marker::open(&path).unwrap();
        assert_eq!(found, None);
        for commit in 1..=5 {
            marker.acknowledge(commit).unwrap();
            let (_, found) = Marker::open(&path).unwrap();
            assert_eq!(found, Some(Acknowledged { commit, closed: false }));
        }
        // Commit 5 lies in the first slot; torn, commit 4 remains.
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[0xff], 9).unwrap();
        let (mut marker, found) = Marker::open(&path).unwrap();
        assert_eq!(found, Some(Acknowledged { commit: 4, closed: false }));
        marker.acknowledge(5).unwrap();
        marker.settle(Acknowledged { commit: 5, closed: true }).unwrap();
        let (_, found) = Marker::open(&path).unwrap();
        assert_eq!(found, Some(Acknowledged { commit: 5, closed: true }));
    }
}
