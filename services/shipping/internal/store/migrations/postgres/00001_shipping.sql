-- +goose Up
CREATE TABLE shipments (
    id              text COLLATE "C" PRIMARY KEY, -- the order's id
    version         bigint NOT NULL,
    event_seq       bigint NOT NULL,
    shipment_id     text COLLATE "C",
    user_id         text COLLATE "C" NOT NULL,
    state           bigint NOT NULL CHECK (state BETWEEN 0 AND 10),
    flags           bigint NOT NULL,
    ship_to         bytea,
    carrier         text NOT NULL,
    tracking_number text COLLATE "C",
    reason          text NOT NULL,
    scans           bytea,           -- the last of them
    scanned         bigint NOT NULL, -- how many there ever were
    booked_at       timestamptz,
    return_at       timestamptz,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX shipments_shipment_id ON shipments (shipment_id) WHERE shipment_id IS NOT NULL;
CREATE UNIQUE INDEX shipments_tracking_number ON shipments (tracking_number) WHERE tracking_number IS NOT NULL;
CREATE INDEX shipments_user ON shipments (user_id, created_at, id);
CREATE INDEX shipments_created ON shipments (created_at, id);

-- Users who were erased: their addresses go as soon as no parcel needs them.
CREATE TABLE erasures (
    id        text COLLATE "C" PRIMARY KEY, -- the user's id
    version   bigint NOT NULL,
    event_seq bigint NOT NULL,
    erased_at timestamptz NOT NULL,
    open      boolean NOT NULL
);
CREATE INDEX erasures_open ON erasures (id) WHERE open;

-- +goose Down
DROP TABLE erasures, shipments;
