-- A replay that was accepted, or found the event accepted meanwhile, writes the row again with the
-- highest version.
ALTER TABLE rejected_events_raw ADD COLUMN IF NOT EXISTS replayed_at Nullable(DateTime64(3, 'UTC')) COMMENT 'When a replay was accepted, or found the event accepted meanwhile';
