-- +goose Up
-- id is the order's. payment_id is empty until the order is known.
CREATE TABLE payments (
    id         TEXT PRIMARY KEY,
    version    INTEGER NOT NULL,
    event_seq  INTEGER NOT NULL,
    payment_id TEXT NOT NULL,
    user_id    TEXT NOT NULL,
    state      INTEGER NOT NULL CHECK (state BETWEEN 0 AND 14),
    status     INTEGER NOT NULL,
    seen       INTEGER NOT NULL,
    amount     INTEGER NOT NULL CHECK (amount >= 0),
    currency   TEXT NOT NULL,
    token      TEXT NOT NULL,
    held_until INTEGER,
    reason     TEXT NOT NULL,
    reference  TEXT NOT NULL,
    review     INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    rare       TEXT
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX payments_payment_id ON payments (payment_id) WHERE payment_id <> '';
CREATE INDEX payments_created_at ON payments (created_at, id);
CREATE INDEX payments_user_id ON payments (user_id, created_at, id);

-- The ledger. It only grows: a wrong entry is corrected by another one.
CREATE TABLE postings (
    seq        INTEGER PRIMARY KEY,
    order_id   TEXT NOT NULL,
    booking    INTEGER NOT NULL CHECK (booking BETWEEN 1 AND 5),
    number     INTEGER NOT NULL,
    account    INTEGER NOT NULL CHECK (account BETWEEN 1 AND 5),
    amount     INTEGER NOT NULL,
    currency   TEXT NOT NULL,
    reference  TEXT,
    created_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX postings_once ON postings (order_id, booking, number, account);
CREATE INDEX postings_reference ON postings (reference) WHERE reference IS NOT NULL;

-- Notices of the provider that were acted upon.
CREATE TABLE webhook_events (
    id         TEXT PRIMARY KEY,
    version    INTEGER NOT NULL,
    event_seq  INTEGER NOT NULL,
    order_id   TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Notices that do not fit what was asked for. People look at them.
CREATE TABLE webhook_quarantine (
    event_id   TEXT PRIMARY KEY,
    order_id   TEXT NOT NULL,
    operation  TEXT NOT NULL,
    reason     TEXT NOT NULL,
    amount     INTEGER NOT NULL,
    currency   TEXT NOT NULL,
    reference  TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TABLE webhook_quarantine;
DROP TABLE webhook_events;
DROP TABLE postings;
DROP TABLE payments;
