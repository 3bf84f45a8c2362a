-- compatible: 1
-- +goose Up

-- What operators need of a message that was given up. Programs of version 1 leave
-- it empty.
ALTER TABLE dead_letters ADD COLUMN class TEXT NOT NULL DEFAULT '';
ALTER TABLE dead_letters ADD COLUMN subject TEXT NOT NULL DEFAULT '';
ALTER TABLE dead_letters ADD COLUMN headers BLOB NOT NULL DEFAULT x'';
ALTER TABLE dead_letters ADD COLUMN first_at INTEGER;
ALTER TABLE dead_letters ADD COLUMN redrive_at INTEGER; -- to be tried again then
ALTER TABLE dead_letters ADD COLUMN redrive_by TEXT NOT NULL DEFAULT '';
ALTER TABLE dead_letters ADD COLUMN redrive_reason TEXT NOT NULL DEFAULT '';
CREATE INDEX dead_letters_redrive ON dead_letters (redrive_at) WHERE redrive_at IS NOT NULL;

-- Who did what about them, and why; it only grows.
CREATE TABLE dead_letter_actions (
    action_id      TEXT PRIMARY KEY,
    dead_letter_id TEXT NOT NULL,
    event_id       TEXT NOT NULL,
    type           TEXT NOT NULL,
    aggregate_id   TEXT NOT NULL,
    deed           INTEGER NOT NULL,
    user_id        TEXT NOT NULL,
    reason         TEXT NOT NULL,
    outcome        TEXT NOT NULL,
    created_at     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Events whose step failed and that will come again.
CREATE TABLE failures (
    event_id TEXT PRIMARY KEY,
    attempts INTEGER NOT NULL,
    first_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TABLE failures;
DROP TABLE dead_letter_actions;
DROP INDEX dead_letters_redrive;
ALTER TABLE dead_letters DROP COLUMN redrive_reason;
ALTER TABLE dead_letters DROP COLUMN redrive_by;
ALTER TABLE dead_letters DROP COLUMN redrive_at;
ALTER TABLE dead_letters DROP COLUMN first_at;
ALTER TABLE dead_letters DROP COLUMN headers;
ALTER TABLE dead_letters DROP COLUMN subject;
ALTER TABLE dead_letters DROP COLUMN class;
