package store

import (
	"context"

	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/services/inventory"
)

// Audited is all that inventory knows of stock.
type Audited struct {
	Stock     map[string]inventory.Stock // by product
	Holds     map[string]inventory.Hold  // by order
	Movements []inventory.Movement
}

// Audit reads the stock of all products. It is for databases that fit into memory.
func (s *Store) Audit(ctx context.Context) (*Audited, error) {
	a := &Audited{Stock: map[string]inventory.Stock{}, Holds: map[string]inventory.Hold{}}
	err := sqldb.Each(ctx, s.db, `SELECT id, on_hand, held, archived, updated_at FROM stock`, nil, func(r sqldb.Scanner) error {
		var id string
		var k inventory.Stock
		err := r.Scan(&id, &k.OnHand, &k.Held, &k.Archived, &k.UpdatedAt)
		a.Stock[id] = k
		return err
	})
	if err != nil {
		return nil, err
	}
	err = sqldb.Each(ctx, s.db, `SELECT id, state, lines, expires_at, updated_at FROM holds`, nil, func(r sqldb.Scanner) error {
		var id string
		h, err := scanHold(r, &id)
		a.Holds[id] = h
		return err
	})
	if err != nil {
		return nil, err
	}
	a.Movements, err = sqldb.All(ctx, s.db, `SELECT product_id, delta, kind, order_id FROM movements`, nil, func(r sqldb.Scanner) (m inventory.Movement, err error) {
		err = r.Scan(&m.ProductID, &m.Delta, &m.Kind, &m.OrderID)
		return m, err
	})
	return a, err
}
