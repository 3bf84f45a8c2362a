-- compatible: 2
-- (a program of version 1 would book parcels and not write down their names)
-- +goose Up

-- What a shipment is called, apart from the row that changes.
CREATE TABLE shipment_ids (
    shipment_id TEXT PRIMARY KEY,
    order_id    TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO shipment_ids (shipment_id, order_id) SELECT shipment_id, id FROM shipments WHERE shipment_id IS NOT NULL;

CREATE TABLE tracking_numbers (
    tracking_number TEXT PRIMARY KEY,
    order_id        TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO tracking_numbers (tracking_number, order_id) SELECT tracking_number, id FROM shipments WHERE tracking_number IS NOT NULL;

DROP INDEX shipments_shipment_id;
DROP INDEX shipments_tracking_number;

-- +goose Down
CREATE UNIQUE INDEX shipments_shipment_id ON shipments (shipment_id) WHERE shipment_id IS NOT NULL;
CREATE UNIQUE INDEX shipments_tracking_number ON shipments (tracking_number) WHERE tracking_number IS NOT NULL;
DROP TABLE tracking_numbers;
DROP TABLE shipment_ids;
