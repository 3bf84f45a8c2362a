-- +goose Up
CREATE TABLE shipments (
    id              TEXT PRIMARY KEY, -- the order's id
    version         INTEGER NOT NULL,
    event_seq       INTEGER NOT NULL,
    shipment_id     TEXT,
    user_id         TEXT NOT NULL,
    state           INTEGER NOT NULL CHECK (state BETWEEN 0 AND 10),
    flags           INTEGER NOT NULL,
    ship_to         BLOB,
    carrier         TEXT NOT NULL,
    tracking_number TEXT,
    reason          TEXT NOT NULL,
    scans           BLOB,             -- the last of them
    scanned         INTEGER NOT NULL, -- how many there ever were
    booked_at       INTEGER,
    return_at       INTEGER,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX shipments_shipment_id ON shipments (shipment_id) WHERE shipment_id IS NOT NULL;
CREATE UNIQUE INDEX shipments_tracking_number ON shipments (tracking_number) WHERE tracking_number IS NOT NULL;
CREATE INDEX shipments_user ON shipments (user_id, created_at, id);
CREATE INDEX shipments_created ON shipments (created_at, id);

-- Users who were erased: their addresses go as soon as no parcel needs them.
CREATE TABLE erasures (
    id        TEXT PRIMARY KEY, -- the user's id
    version   INTEGER NOT NULL,
    event_seq INTEGER NOT NULL,
    erased_at INTEGER NOT NULL,
    open      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX erasures_open ON erasures (id) WHERE open;

-- +goose Down
DROP TABLE erasures;
DROP TABLE shipments;
