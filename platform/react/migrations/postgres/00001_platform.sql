-- +goose Up
CREATE TABLE inbox (
    event_id     text COLLATE "C" PRIMARY KEY,
    processed_at timestamptz NOT NULL
);
CREATE INDEX inbox_processed_at ON inbox USING brin (processed_at);

-- Events, as they were committed; a row is never changed.
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
    created_at   timestamptz NOT NULL
);
CREATE INDEX outbox_created_at ON outbox USING brin (created_at) WITH (pages_per_range = 16);

-- Those the broker has not acknowledged yet. Kept apart, because a mark on the
-- event itself would write the whole row and all its index entries anew.
CREATE TABLE outbox_pending (
    seq bigint PRIMARY KEY
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 5000);

-- +goose StatementBegin
CREATE FUNCTION outbox_pend() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO outbox_pending (seq) SELECT seq FROM added;
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER outbox_pend AFTER INSERT ON outbox REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION outbox_pend();

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
DROP TABLE leases, dead_letters, idempotency, effects, outbox_pending, outbox, inbox;
DROP FUNCTION outbox_pend;
