-- +goose Up
CREATE TABLE inbox (
    event_id     text COLLATE "C" PRIMARY KEY,
    processed_at timestamptz NOT NULL
);
CREATE INDEX inbox_processed_at ON inbox USING brin (processed_at);

CREATE TABLE outbox (
    seq          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id     text COLLATE "C" NOT NULL,
    type         text NOT NULL,
    aggregate_id text COLLATE "C" NOT NULL,
    version      bigint NOT NULL,
    cause        text NOT NULL,
    hops         bigint NOT NULL,
    traceparent  text NOT NULL,
    payload      bytea NOT NULL CHECK (octet_length(payload) <= 262144),
    created_at   timestamptz NOT NULL,
    published_at timestamptz,
    stream_seq   bigint
) WITH (autovacuum_vacuum_scale_factor = 0.01, fillfactor = 80);
CREATE UNIQUE INDEX outbox_version ON outbox (aggregate_id, version);
CREATE INDEX outbox_pending ON outbox (seq) WHERE published_at IS NULL;
CREATE INDEX outbox_created_at ON outbox USING brin (created_at);

CREATE TABLE effects (
    effect_id       text COLLATE "C" PRIMARY KEY,
    kind            text NOT NULL,
    idempotency_key text NOT NULL,
    aggregate_id    text COLLATE "C" NOT NULL,
    payload         bytea NOT NULL,
    attempt         bigint NOT NULL,
    run_at          timestamptz NOT NULL,
    claimed_until   timestamptz NOT NULL,
    cause           text NOT NULL,
    hops            bigint NOT NULL,
    traceparent     text NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.01);

CREATE TABLE idempotency (
    id          text COLLATE "C" PRIMARY KEY,
    fingerprint bytea NOT NULL,
    answer      bytea NOT NULL,
    created_at  timestamptz NOT NULL
);
CREATE INDEX idempotency_created_at ON idempotency USING brin (created_at);

CREATE TABLE dead_letters (
    dead_letter_id text COLLATE "C" PRIMARY KEY,
    event_id       text NOT NULL,
    type           text NOT NULL,
    aggregate_id   text NOT NULL,
    stream         text NOT NULL,
    stream_seq     bigint NOT NULL,
    payload        bytea NOT NULL,
    reason         text NOT NULL,
    detail         text NOT NULL,
    attempts       bigint NOT NULL,
    cause          text NOT NULL,
    traceparent    text NOT NULL,
    created_at     timestamptz NOT NULL
);

CREATE TABLE leases (
    name       text PRIMARY KEY,
    owner      text NOT NULL,
    epoch      bigint NOT NULL,
    expires_at timestamptz NOT NULL
);

-- +goose Down
DROP TABLE leases, dead_letters, idempotency, effects, outbox, inbox;
