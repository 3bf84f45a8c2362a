-- compatible: 1
-- +goose Up

-- What operators need of a message that was given up. Programs of version 1 leave
-- it empty.
ALTER TABLE dead_letters
    ADD COLUMN class text NOT NULL DEFAULT '',
    ADD COLUMN subject text NOT NULL DEFAULT '',
    ADD COLUMN headers bytea NOT NULL DEFAULT '',
    ADD COLUMN first_at timestamptz,
    ADD COLUMN redrive_at timestamptz, -- to be tried again then
    ADD COLUMN redrive_by text NOT NULL DEFAULT '',
    ADD COLUMN redrive_reason text NOT NULL DEFAULT '';
CREATE INDEX dead_letters_redrive ON dead_letters (redrive_at) WHERE redrive_at IS NOT NULL;

-- Who did what about them, and why; it only grows.
CREATE TABLE dead_letter_actions (
    action_id      text COLLATE "C" PRIMARY KEY,
    dead_letter_id text NOT NULL,
    event_id       text NOT NULL,
    type           text NOT NULL,
    aggregate_id   text NOT NULL,
    deed           bigint NOT NULL,
    user_id        text NOT NULL,
    reason         text NOT NULL,
    outcome        text NOT NULL,
    created_at     timestamptz NOT NULL
);

-- Events whose step failed and that will come again.
CREATE TABLE failures (
    event_id text COLLATE "C" PRIMARY KEY,
    attempts bigint NOT NULL,
    first_at timestamptz NOT NULL
);

-- +goose Down
DROP TABLE failures, dead_letter_actions;
DROP INDEX dead_letters_redrive;
ALTER TABLE dead_letters
    DROP COLUMN redrive_reason, DROP COLUMN redrive_by, DROP COLUMN redrive_at, DROP COLUMN first_at,
    DROP COLUMN headers, DROP COLUMN subject, DROP COLUMN class;
