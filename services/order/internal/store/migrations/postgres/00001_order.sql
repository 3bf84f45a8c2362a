-- +goose Up

-- The part of an order that changes. It is rewritten by every step, so it is
-- small, and no column that changes often is indexed: the row can be replaced
-- within its page.
CREATE TABLE orders (
    id              text COLLATE "C" PRIMARY KEY,
    version         bigint NOT NULL,
    event_seq       bigint NOT NULL,
    status          smallint NOT NULL CHECK (status BETWEEN 1 AND 13),
    reason          smallint NOT NULL,
    words           text NOT NULL,
    shipment        smallint NOT NULL,
    payment_id      text COLLATE "C" NOT NULL,
    shipment_id     text COLLATE "C" NOT NULL,
    tracking_number text NOT NULL,
    timed           boolean NOT NULL,
    deadline_at     timestamptz,
    reminders       bigint NOT NULL,
    saga_over_at    timestamptz,
    updated_at      timestamptz NOT NULL,
    CHECK (timed = (deadline_at IS NOT NULL))
) WITH (fillfactor = 40);
CREATE INDEX orders_timed ON orders (id) WHERE timed;

-- The part that stays as it was placed, until the owner is erased.
CREATE TABLE order_details (
    id             text COLLATE "C" PRIMARY KEY,
    version        bigint NOT NULL,
    event_seq      bigint NOT NULL,
    user_id        text COLLATE "C" NOT NULL,
    created_at     timestamptz NOT NULL,
    total_minor    bigint NOT NULL CHECK (total_minor >= 0),
    total_currency text NOT NULL,
    lines          bytea NOT NULL,
    ship_to        bytea
);
CREATE INDEX order_details_user ON order_details (user_id, created_at, id);
CREATE INDEX order_details_created ON order_details (created_at, id);

CREATE TABLE waybill_entries (
    order_id text COLLATE "C" NOT NULL,
    sequence bigint NOT NULL,
    entry    bytea NOT NULL,
    PRIMARY KEY (order_id, sequence)
);

CREATE TABLE erasures (
    id        text COLLATE "C" PRIMARY KEY,
    version   bigint NOT NULL,
    event_seq bigint NOT NULL,
    erased_at timestamptz NOT NULL,
    open      boolean NOT NULL
);
CREATE INDEX erasures_open ON erasures (id) WHERE open;

-- +goose Down
DROP TABLE erasures;
DROP TABLE waybill_entries;
DROP TABLE order_details;
DROP TABLE orders;
