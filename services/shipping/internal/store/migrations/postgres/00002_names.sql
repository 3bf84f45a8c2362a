-- compatible: 2
-- (a program of version 1 would book parcels and not write down their names)
-- +goose Up

-- What a shipment is called, apart from the row that changes: none of its updates
-- touches an index any more, so it is replaced within its page.
CREATE TABLE shipment_ids (
    shipment_id text COLLATE "C" PRIMARY KEY,
    order_id    text COLLATE "C" NOT NULL
);
INSERT INTO shipment_ids (shipment_id, order_id) SELECT shipment_id, id FROM shipments WHERE shipment_id IS NOT NULL;

CREATE TABLE tracking_numbers (
    tracking_number text COLLATE "C" PRIMARY KEY,
    order_id        text COLLATE "C" NOT NULL
);
INSERT INTO tracking_numbers (tracking_number, order_id) SELECT tracking_number, id FROM shipments WHERE tracking_number IS NOT NULL;

DROP INDEX shipments_shipment_id;
DROP INDEX shipments_tracking_number;
ALTER TABLE shipments SET (fillfactor = 35); -- room for the two versions that follow the first

-- +goose Down
ALTER TABLE shipments SET (fillfactor = 50);
CREATE UNIQUE INDEX shipments_shipment_id ON shipments (shipment_id) WHERE shipment_id IS NOT NULL;
CREATE UNIQUE INDEX shipments_tracking_number ON shipments (tracking_number) WHERE tracking_number IS NOT NULL;
DROP TABLE tracking_numbers, shipment_ids;
