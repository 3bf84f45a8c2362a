-- +goose Up
-- An erased person keeps a row without anything personal.
CREATE TABLE users (
    id           TEXT PRIMARY KEY,
    version      INTEGER NOT NULL,
    event_seq    INTEGER NOT NULL,
    email        TEXT NOT NULL,
    display_name TEXT NOT NULL,
    role         INTEGER NOT NULL CHECK (role BETWEEN 1 AND 3),
    role_seq     INTEGER NOT NULL,
    addresses    BLOB,
    erased       INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL
) STRICT;
CREATE INDEX users_created ON users (created_at, id);
CREATE INDEX users_email ON users (email, id);

-- +goose Down
DROP TABLE users;
