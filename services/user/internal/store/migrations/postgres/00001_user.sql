-- +goose Up
-- An erased person keeps a row without anything personal.
CREATE TABLE users (
    id           text COLLATE "C" PRIMARY KEY,
    version      bigint NOT NULL,
    event_seq    bigint NOT NULL,
    email        text COLLATE "C" NOT NULL,
    display_name text COLLATE "C" NOT NULL,
    role         smallint NOT NULL CHECK (role BETWEEN 1 AND 3),
    role_seq     bigint NOT NULL,
    addresses    bytea,
    erased       boolean NOT NULL,
    created_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL
);
CREATE INDEX users_created ON users (created_at, id);
CREATE INDEX users_email ON users (email, id);

-- +goose Down
DROP TABLE users;
