-- +goose Up
CREATE TABLE products (
    id          TEXT PRIMARY KEY,
    version     INTEGER NOT NULL,
    event_seq   INTEGER NOT NULL,
    sku         TEXT NOT NULL,
    name        TEXT NOT NULL,
    description TEXT NOT NULL,
    category    TEXT NOT NULL,
    price       INTEGER NOT NULL CHECK (price >= 0),
    currency    TEXT NOT NULL,
    archived    INTEGER NOT NULL,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX products_sku ON products (sku);
CREATE INDEX products_name ON products (name, id);
CREATE INDEX products_created_at ON products (created_at, id);

-- Who has which SKU: the row is inserted with the product, so two products that
-- are made at the same time cannot have the same.
CREATE TABLE skus (
    id         TEXT PRIMARY KEY,
    version    INTEGER NOT NULL,
    event_seq  INTEGER NOT NULL,
    product_id TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Small rows that change with every order.
CREATE TABLE stock (
    id         TEXT PRIMARY KEY,
    version    INTEGER NOT NULL,
    event_seq  INTEGER NOT NULL,
    on_hand    INTEGER NOT NULL CHECK (on_hand >= 0),
    held       INTEGER NOT NULL CHECK (held >= 0),
    archived   INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    CHECK (held <= on_hand)
) STRICT, WITHOUT ROWID;

-- lines: {"<product_id>": quantity, …}
CREATE TABLE holds (
    id         TEXT PRIMARY KEY,
    version    INTEGER NOT NULL,
    event_seq  INTEGER NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('WAITING', 'HELD', 'COMMITTED', 'REJECTED', 'EXPIRED', 'RELEASED', 'RESTOCKED', 'TOMBSTONED')),
    lines      TEXT NOT NULL,
    expires_at INTEGER,
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX holds_due ON holds (expires_at) WHERE state = 'HELD';

-- Append-only. Per product, the deltas add up to stock.on_hand.
CREATE TABLE movements (
    seq        INTEGER PRIMARY KEY,
    product_id TEXT NOT NULL,
    delta      INTEGER NOT NULL CHECK (delta <> 0),
    kind       TEXT NOT NULL CHECK (kind IN ('RECEIVED', 'ADJUSTED', 'SOLD', 'RESTOCKED')),
    order_id   TEXT NOT NULL,
    reason     TEXT NOT NULL,
    actor      TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- +goose Down
DROP TABLE movements;
DROP TABLE holds;
DROP TABLE stock;
DROP TABLE skus;
DROP TABLE products;
