package store

import (
	"context"

	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/services/shipping"
)

// Audit reads all shipments, by order. It is for databases that fit into memory.
func (s *Store) Audit(ctx context.Context) (map[string]shipping.Shipment, error) {
	all := map[string]shipping.Shipment{}
	return all, sqldb.Each(ctx, s.db, `SELECT `+columns+` FROM shipments`, nil, func(r sqldb.Scanner) error {
		got, err := read(r)
		all[got.OrderID] = got.Shipment
		return err
	})
}
