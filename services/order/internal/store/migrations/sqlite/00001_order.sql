-- +goose Up

-- The part of an order that changes; every step rewrites it, so it is small.
CREATE TABLE orders (
    id              TEXT PRIMARY KEY,
    version         INTEGER NOT NULL,
    event_seq       INTEGER NOT NULL,
    status          INTEGER NOT NULL CHECK (status BETWEEN 1 AND 13),
    reason          INTEGER NOT NULL,
    words           TEXT NOT NULL,
    shipment        INTEGER NOT NULL,
    payment_id      TEXT NOT NULL,
    shipment_id     TEXT NOT NULL,
    tracking_number TEXT NOT NULL,
    timed           INTEGER NOT NULL,
    deadline_at     INTEGER,
    reminders       INTEGER NOT NULL,
    saga_over_at    INTEGER,
    updated_at      INTEGER NOT NULL,
    CHECK (timed = (deadline_at IS NOT NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX orders_timed ON orders (id) WHERE timed;

-- The part that stays as it was placed, until the owner is erased.
CREATE TABLE order_details (
    id             TEXT PRIMARY KEY,
    version        INTEGER NOT NULL,
    event_seq      INTEGER NOT NULL,
    user_id        TEXT NOT NULL,
    created_at     INTEGER NOT NULL,
    total_minor    INTEGER NOT NULL CHECK (total_minor >= 0),
    total_currency TEXT NOT NULL,
    lines          BLOB NOT NULL,
    ship_to        BLOB
) STRICT, WITHOUT ROWID;
CREATE INDEX order_details_user ON order_details (user_id, created_at, id);
CREATE INDEX order_details_created ON order_details (created_at, id);

CREATE TABLE waybill_entries (
    order_id TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    entry    BLOB NOT NULL,
    PRIMARY KEY (order_id, sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE erasures (
    id        TEXT PRIMARY KEY,
    version   INTEGER NOT NULL,
    event_seq INTEGER NOT NULL,
    erased_at INTEGER NOT NULL,
    open      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX erasures_open ON erasures (id) WHERE open;

-- +goose Down
DROP TABLE erasures;
DROP TABLE waybill_entries;
DROP TABLE order_details;
DROP TABLE orders;
