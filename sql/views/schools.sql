CREATE OR REPLACE VIEW schools
(
    school_id String COMMENT 'School',
    name String COMMENT 'Its name',
    time_zone String COMMENT 'Its time zone, IANA name; days are counted in it',
    updated_at DateTime64(3, 'UTC') COMMENT 'When this was set'
)
AS SELECT school_id, name, time_zone, updated_at
FROM schools_raw FINAL
WHERE epoch = (SELECT argMax(epoch, version) FROM active_epoch_raw)
COMMENT 'One row per school whose settings were set'
