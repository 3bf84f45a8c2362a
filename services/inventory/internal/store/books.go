package store

import (
	"context"

	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/services/inventory"
)

// HoldStates reads the states of the holds of orders; those inventory has not
// heard of are absent.
func (s *Store) HoldStates(ctx context.Context, orderIDs []string) (map[string]inventory.State, error) {
	found := make(map[string]inventory.State, len(orderIDs))
	if len(orderIDs) == 0 {
		return found, nil
	}
	marks, args := sqldb.In(orderIDs)
	err := sqldb.Each(ctx, s.db, `SELECT id, state FROM holds WHERE id IN (`+marks+`)`, args, func(r sqldb.Scanner) error {
		var id string
		var state inventory.State
		err := r.Scan(&id, &state)
		found[id] = state
		return err
	})
	return found, err
}
