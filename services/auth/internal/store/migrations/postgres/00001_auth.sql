-- +goose Up
-- id is the user's. email_id is '' once the account is erased.
CREATE TABLE accounts (
    id              text COLLATE "C" PRIMARY KEY,
    version         bigint NOT NULL,
    event_seq       bigint NOT NULL,
    email_id        text COLLATE "C" NOT NULL,
    role            smallint NOT NULL CHECK (role BETWEEN 1 AND 3),
    password_hash   text NOT NULL,
    password_serial bigint NOT NULL,
    sessions        text NOT NULL,
    erased          boolean NOT NULL,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL
);

-- id is a keyed hash of an address; user_id is '' when the address is free again.
CREATE TABLE emails (
    id        text COLLATE "C" PRIMARY KEY,
    version   bigint NOT NULL,
    event_seq bigint NOT NULL,
    user_id   text COLLATE "C" NOT NULL
);

CREATE TABLE sessions (
    id            text COLLATE "C" PRIMARY KEY,
    version       bigint NOT NULL,
    event_seq     bigint NOT NULL,
    user_id       text COLLATE "C" NOT NULL,
    user_agent    text NOT NULL,
    token_hash    bytea,
    previous_hash bytea,
    created_at    timestamptz NOT NULL,
    refreshed_at  timestamptz NOT NULL,
    expires_at    timestamptz NOT NULL,
    revoked_at    timestamptz
);
CREATE INDEX sessions_user ON sessions (user_id, created_at, id);
CREATE INDEX sessions_revoked ON sessions (revoked_at) WHERE revoked_at IS NOT NULL;
CREATE INDEX sessions_expired ON sessions (expires_at);

-- One row: all keys that sign, and the secret of refresh tokens.
CREATE TABLE rings (
    id        text COLLATE "C" PRIMARY KEY,
    version   bigint NOT NULL,
    event_seq bigint NOT NULL,
    data      text NOT NULL
);

-- +goose Down
DROP TABLE rings;
DROP TABLE sessions;
DROP TABLE emails;
DROP TABLE accounts;
