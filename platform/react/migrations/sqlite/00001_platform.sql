-- +goose Up
CREATE TABLE inbox (
    event_id     TEXT PRIMARY KEY,
    processed_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Events, as they were committed; a row is never changed.
CREATE TABLE outbox (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id     TEXT NOT NULL,
    type         TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    version      INTEGER NOT NULL,
    cause        TEXT NOT NULL,
    hops         INTEGER NOT NULL,
    traceparent  TEXT NOT NULL,
    payload      BLOB NOT NULL CHECK (length(payload) <= 262144),
    created_at   INTEGER NOT NULL
) STRICT;

-- Those the broker has not acknowledged yet.
CREATE TABLE outbox_pending (
    seq INTEGER PRIMARY KEY
) STRICT;

-- +goose StatementBegin
CREATE TRIGGER outbox_pend AFTER INSERT ON outbox BEGIN
    INSERT INTO outbox_pending (seq) VALUES (NEW.seq);
END;
-- +goose StatementEnd

CREATE TABLE effects (
    effect_id       TEXT PRIMARY KEY,
    kind            TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    aggregate_id    TEXT NOT NULL,
    payload         BLOB NOT NULL,
    attempt         INTEGER NOT NULL,
    run_at          INTEGER NOT NULL,
    claimed_until   INTEGER NOT NULL,
    cause           TEXT NOT NULL,
    hops            INTEGER NOT NULL,
    traceparent     TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE idempotency (
    id          TEXT PRIMARY KEY,
    fingerprint BLOB NOT NULL,
    answer      BLOB NOT NULL,
    created_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE dead_letters (
    dead_letter_id TEXT PRIMARY KEY,
    event_id       TEXT NOT NULL,
    type           TEXT NOT NULL,
    aggregate_id   TEXT NOT NULL,
    stream         TEXT NOT NULL,
    stream_seq     INTEGER NOT NULL,
    payload        BLOB NOT NULL,
    reason         TEXT NOT NULL,
    detail         TEXT NOT NULL,
    attempts       INTEGER NOT NULL,
    cause          TEXT NOT NULL,
    traceparent    TEXT NOT NULL,
    created_at     INTEGER NOT NULL
) STRICT;

CREATE TABLE leases (
    name       TEXT PRIMARY KEY,
    owner      TEXT NOT NULL,
    epoch      INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;

-- +goose Down
DROP TABLE leases;
DROP TABLE dead_letters;
DROP TABLE idempotency;
DROP TABLE effects;
DROP TABLE outbox_pending;
DROP TABLE outbox;
DROP TABLE inbox;
