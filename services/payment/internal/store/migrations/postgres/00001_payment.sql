-- +goose Up
-- id is the order's. payment_id is empty until the order is known.
CREATE TABLE payments (
    id         text COLLATE "C" PRIMARY KEY,
    version    bigint NOT NULL,
    event_seq  bigint NOT NULL,
    payment_id text COLLATE "C" NOT NULL,
    user_id    text COLLATE "C" NOT NULL,
    state      smallint NOT NULL CHECK (state BETWEEN 0 AND 14),
    status     smallint NOT NULL,
    seen       smallint NOT NULL,
    amount     bigint NOT NULL CHECK (amount >= 0),
    currency   text NOT NULL,
    token      text NOT NULL,
    held_until timestamptz,
    reason     text NOT NULL,
    reference  text NOT NULL,
    review     boolean NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    rare       text
) WITH (fillfactor = 40, autovacuum_vacuum_scale_factor = 0.05);
CREATE UNIQUE INDEX payments_payment_id ON payments (payment_id) WHERE payment_id <> '';
CREATE INDEX payments_created_at ON payments (created_at, id);
CREATE INDEX payments_user_id ON payments (user_id, created_at, id);

-- The ledger. It only grows: a wrong entry is corrected by another one.
CREATE TABLE postings (
    seq        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id   text COLLATE "C" NOT NULL,
    booking    smallint NOT NULL CHECK (booking BETWEEN 1 AND 5),
    number     bigint NOT NULL,
    account    smallint NOT NULL CHECK (account BETWEEN 1 AND 5),
    amount     bigint NOT NULL,
    currency   text NOT NULL,
    reference  text,
    created_at timestamptz NOT NULL
);
CREATE UNIQUE INDEX postings_once ON postings (order_id, booking, number, account);
CREATE INDEX postings_reference ON postings (reference) WHERE reference IS NOT NULL;
CREATE INDEX postings_created_at ON postings USING brin (created_at);

-- Notices of the provider that were acted upon.
CREATE TABLE webhook_events (
    id         text COLLATE "C" PRIMARY KEY,
    version    bigint NOT NULL,
    event_seq  bigint NOT NULL,
    order_id   text NOT NULL,
    created_at timestamptz NOT NULL
);

-- Notices that do not fit what was asked for. People look at them.
CREATE TABLE webhook_quarantine (
    event_id   text COLLATE "C" PRIMARY KEY,
    order_id   text NOT NULL,
    operation  text NOT NULL,
    reason     text NOT NULL,
    amount     bigint NOT NULL,
    currency   text NOT NULL,
    reference  text NOT NULL,
    created_at timestamptz NOT NULL
);

-- +goose Down
DROP TABLE webhook_quarantine, webhook_events, postings, payments;
