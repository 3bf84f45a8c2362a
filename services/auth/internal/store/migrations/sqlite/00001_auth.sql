-- +goose Up
-- id is the user's. email_id is '' once the account is erased.
CREATE TABLE accounts (
    id              TEXT PRIMARY KEY,
    version         INTEGER NOT NULL,
    event_seq       INTEGER NOT NULL,
    email_id        TEXT NOT NULL,
    role            INTEGER NOT NULL CHECK (role BETWEEN 1 AND 3),
    password_hash   TEXT NOT NULL,
    password_serial INTEGER NOT NULL,
    sessions        TEXT NOT NULL,
    erased          INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL
) STRICT;

-- id is a keyed hash of an address; user_id is '' when the address is free again.
CREATE TABLE emails (
    id        TEXT PRIMARY KEY,
    version   INTEGER NOT NULL,
    event_seq INTEGER NOT NULL,
    user_id   TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE sessions (
    id            TEXT PRIMARY KEY,
    version       INTEGER NOT NULL,
    event_seq     INTEGER NOT NULL,
    user_id       TEXT NOT NULL,
    user_agent    TEXT NOT NULL,
    token_hash    BLOB,
    previous_hash BLOB,
    created_at    INTEGER NOT NULL,
    refreshed_at  INTEGER NOT NULL,
    expires_at    INTEGER NOT NULL,
    revoked_at    INTEGER
) STRICT;
CREATE INDEX sessions_user ON sessions (user_id, created_at, id);
CREATE INDEX sessions_revoked ON sessions (revoked_at) WHERE revoked_at IS NOT NULL;
CREATE INDEX sessions_expired ON sessions (expires_at);

-- One row: all keys that sign, and the secret of refresh tokens.
CREATE TABLE rings (
    id        TEXT PRIMARY KEY,
    version   INTEGER NOT NULL,
    event_seq INTEGER NOT NULL,
    data      TEXT NOT NULL
) STRICT;

-- +goose Down
DROP TABLE rings;
DROP TABLE sessions;
DROP TABLE emails;
DROP TABLE accounts;
