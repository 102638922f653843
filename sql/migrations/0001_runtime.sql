-- Where each partition's folding stands, with everything it needs to go on from there.
--
-- One checkpoint is one insert of one block, so it is one part: all of it is there or nothing.
-- `state` is opaque here: its first bytes are a format version that the core checks.
-- A row with an empty `state` says that the state under this key is gone.
CREATE TABLE IF NOT EXISTS fold_state
(
    epoch UInt32 COMMENT 'Folding of the log that this state belongs to',
    log_partition UInt32 COMMENT 'Partition of chalkstream.events',
    kind LowCardinality(String) COMMENT 'checkpoint, or the kind of state',
    key String COMMENT 'Which learner, item and so on; empty for the checkpoint',
    version UInt64 COMMENT 'Log offset of the last record that changed the row, plus one',
    state String COMMENT 'Packed state' CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY epoch
ORDER BY (log_partition, kind, key)
SETTINGS index_granularity = 512, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Checkpoints and packed states of the stream processors; private';

-- The one row with the highest version names the epoch that every view shows.
CREATE TABLE IF NOT EXISTS active_epoch_raw
(
    id UInt8 DEFAULT 0 COMMENT 'Always 0: there is one active epoch',
    epoch UInt32 COMMENT 'Folding of the log that the views show',
    version UInt64 COMMENT 'Rises with every switch'
)
ENGINE = ReplacingMergeTree(version)
ORDER BY id
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'The active epoch; private';

INSERT INTO active_epoch_raw (id, epoch, version) VALUES (0, 1, 1);
