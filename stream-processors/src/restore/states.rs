//! Reading a partition's checkpoint and states, streamed.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use chalkstream_core::{PartitionState, StateRow};
use chalkstream_schemas::{Epoch, PartitionId, RowVersion};
use tokio::sync::mpsc;

use crate::checkpoint::{self, Checkpoint};
use crate::flush::FOLD_STATE;
use crate::tables::row_binary::{Incomplete, RowReader};
use crate::tables::{TableError, Tables};

/// Pieces of the answer that may wait for the decoder.
const PIECES_MAX: usize = 8;

/// What was read.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) state: PartitionState,
    pub(super) checkpoint: Option<Checkpoint>,
    pub(super) states: u64,
}

/// Why it could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// Worth trying again.
    #[error("the states of {partition} could not be fetched")]
    Fetch { partition: PartitionId, source: TableError },
    /// Worth trying again: the answer was cut off.
    #[error("the answer with the states of {partition} ends in the middle of a row")]
    Cut { partition: PartitionId },
    /// Worth trying again: another owner wrote in between.
    #[error(
        "a state of {partition} has version {version}, above its checkpoint: another process folds it too"
    )]
    AnotherOwner { partition: PartitionId, version: u64 },
    /// The decoder ended early.
    #[error("decoding the states of {partition} was interrupted")]
    Interrupted { partition: PartitionId },
    /// Stored by another version, or damaged.
    #[error("the {what} of {partition} in {FOLD_STATE} cannot be read: {detail}")]
    Unreadable { partition: PartitionId, what: String, detail: String },
}

impl Error {
    /// The whole story, where trying again does not help.
    pub(super) fn unreadable(&self) -> Option<String> {
        match self {
            Self::Unreadable { .. } => Some(self.to_string()),
            Self::Fetch { .. }
            | Self::Cut { .. }
            | Self::AnotherOwner { .. }
            | Self::Interrupted { .. } => None,
        }
    }
}

/// Reads checkpoint and states of a partition in one query.
pub(super) async fn read(
    tables: &Arc<dyn Tables>,
    epoch: Epoch,
    partition: PartitionId,
) -> Result<Read, Error> {
    let fetch = |source| Error::Fetch { partition, source };
    let query = format!(
        "SELECT toString(kind), key, version, state FROM {FOLD_STATE} FINAL \
         WHERE epoch = {} AND log_partition = {}",
        epoch.get(),
        partition.get()
    );
    let mut rows = tables.select(FOLD_STATE, &query).await.map_err(fetch)?;
    let (pieces, received) = mpsc::channel(PIECES_MAX);
    let decoding = tokio::task::spawn_blocking(move || decode(epoch, partition, received));
    while let Some(piece) = rows.chunk().await.map_err(fetch)? {
        if pieces.send(piece).await.is_err() {
            break; // The decoder has failed, and says why below.
        }
    }
    drop(pieces);
    match decoding.await {
        Ok(read) => read,
        Err(_stopped) => Err(Error::Interrupted { partition }),
    }
}

/// Takes pieces cut anywhere and restores row by row. Blocking.
fn decode(
    epoch: Epoch,
    partition: PartitionId,
    mut pieces: mpsc::Receiver<Bytes>,
) -> Result<Read, Error> {
    let unreadable =
        |what: &str, detail: String| Error::Unreadable { partition, what: what.to_owned(), detail };
    let mut read =
        Read { state: PartitionState::new(partition, epoch), checkpoint: None, states: 0 };
    let mut newest = RowVersion::ZERO;
    let mut waiting = BytesMut::new();
    while let Some(piece) = pieces.blocking_recv() {
        waiting.extend_from_slice(&piece);
        let mut taken = 0;
        while let Ok((row, rest)) = next_row(waiting.get(taken..).unwrap_or(&[])) {
            taken = waiting.len() - rest;
            let Row { kind, key, version, state } = row;
            if kind == checkpoint::KIND.as_bytes() {
                let found = Checkpoint::decode(state)
                    .map_err(|error| unreadable("checkpoint", error.to_string()))?;
                read.checkpoint = Some(found);
            } else {
                let kind = String::from_utf8_lossy(kind).into_owned();
                newest = newest.max(version);
                read.states += 1;
                let row = StateRow {
                    kind: kind.clone().into(),
                    key: key.to_vec(),
                    version,
                    state: state.to_vec(),
                };
                read.state.restore(&row).map_err(|error| {
                    unreadable(&format!("state of kind {kind}"), error.to_string())
                })?;
            }
        }
        bytes::Buf::advance(&mut waiting, taken);
    }
    if !waiting.is_empty() {
        return Err(Error::Cut { partition });
    }
    match &read.checkpoint {
        Some(checkpoint) if newest.get() > checkpoint.next.get() => {
            Err(Error::AnotherOwner { partition, version: newest.get() })
        }
        None if read.states > 0 => Err(unreadable(
            "checkpoint",
            format!("there are {} states, but no checkpoint", read.states),
        )),
        Some(_) | None => Ok(read),
    }
}

struct Row<'a> {
    kind: &'a [u8],
    key: &'a [u8],
    version: RowVersion,
    state: &'a [u8],
}

/// The first row, and how many bytes follow it.
fn next_row(bytes: &[u8]) -> Result<(Row<'_>, usize), Incomplete> {
    let mut reader = RowReader::new(bytes);
    let row = Row {
        kind: reader.bytes()?,
        key: reader.bytes()?,
        version: RowVersion::new(reader.u64()?),
        state: reader.bytes()?,
    };
    Ok((row, reader.remaining()))
}
