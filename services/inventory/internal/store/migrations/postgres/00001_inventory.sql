-- +goose Up
CREATE TABLE products (
    id          text COLLATE "C" PRIMARY KEY,
    version     bigint NOT NULL,
    event_seq   bigint NOT NULL,
    sku         text COLLATE "C" NOT NULL,
    name        text COLLATE "C" NOT NULL,
    description text NOT NULL,
    category    text COLLATE "C" NOT NULL,
    price       bigint NOT NULL CHECK (price >= 0),
    currency    text NOT NULL,
    archived    boolean NOT NULL,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL
);
CREATE UNIQUE INDEX products_sku ON products (sku);
CREATE INDEX products_name ON products (name, id);
CREATE INDEX products_created_at ON products (created_at, id);

-- Who has which SKU: the row is inserted with the product, so two products that
-- are made at the same time cannot have the same.
CREATE TABLE skus (
    id         text COLLATE "C" PRIMARY KEY,
    version    bigint NOT NULL,
    event_seq  bigint NOT NULL,
    product_id text COLLATE "C" NOT NULL
);

-- Small rows that change with every order; half of each page is left free so that
-- a changed row stays on its page and no index is touched.
CREATE TABLE stock (
    id         text COLLATE "C" PRIMARY KEY,
    version    bigint NOT NULL,
    event_seq  bigint NOT NULL,
    on_hand    bigint NOT NULL CHECK (on_hand >= 0),
    held       bigint NOT NULL CHECK (held >= 0),
    archived   boolean NOT NULL,
    updated_at timestamptz NOT NULL,
    CHECK (held <= on_hand)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01);

-- lines: {"<product_id>": quantity, …}
CREATE TABLE holds (
    id         text COLLATE "C" PRIMARY KEY,
    version    bigint NOT NULL,
    event_seq  bigint NOT NULL,
    state      text NOT NULL CHECK (state IN ('WAITING', 'HELD', 'COMMITTED', 'REJECTED', 'EXPIRED', 'RELEASED', 'RESTOCKED', 'TOMBSTONED')),
    lines      text NOT NULL,
    expires_at timestamptz,
    updated_at timestamptz NOT NULL
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX holds_due ON holds (expires_at) WHERE state = 'HELD';

-- Append-only. Per product, the deltas add up to stock.on_hand.
CREATE TABLE movements (
    seq        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    product_id text COLLATE "C" NOT NULL,
    delta      bigint NOT NULL CHECK (delta <> 0),
    kind       text NOT NULL CHECK (kind IN ('RECEIVED', 'ADJUSTED', 'SOLD', 'RESTOCKED')),
    order_id   text NOT NULL,
    reason     text NOT NULL,
    actor      text NOT NULL,
    created_at timestamptz NOT NULL
);

-- +goose Down
DROP TABLE movements, holds, stock, skus, products;
