package store

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/sqldb"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	"github.com/waybill-dev/waybill/services/order"
)

// Store reads orders. It is safe for concurrent use.
type Store struct{ db *sqldb.DB }

// New gives a Store on a database that has the tables.
func New(db *sqldb.DB) *Store { return &Store{db: db} }

// selectOrders reads whole orders; its rows go to scanWhole.
const selectOrders = `SELECT o.id, o.version, o.status, o.reason, o.words, o.shipment, o.payment_id, o.shipment_id, o.tracking_number,
 o.timed, o.deadline_at, o.reminders, o.saga_over_at, o.updated_at,
 d.user_id, d.created_at, d.total_minor, d.total_currency, d.lines, d.ship_to
 FROM orders o JOIN order_details d ON d.id = o.id`

func scanWhole(s sqldb.Scanner) (*orderv1.Order, error) {
	var (
		id      string
		version int64
		o       orderColumns
		d       detailsColumns
	)
	if err := s.Scan(append(append([]any{&id, &version}, o.dest()...), d.dest()...)...); err != nil {
		return nil, err
	}
	details, err := d.details()
	if err != nil {
		return nil, err
	}
	return details.Fill(o.order().Proto(id, version)), nil
}

// Get reads an order. Owner limits it to what belongs to that user; "" does not
// limit. It fails with NotFound when there is no such order, or it is not theirs.
func (s *Store) Get(ctx context.Context, owner, id string) (*orderv1.Order, error) {
	query, args := selectOrders+" WHERE o.id = ?", []any{id}
	if owner != "" {
		query, args = query+" AND d.user_id || '' = ?", append(args, owner) // as in GetMany
	}
	rows, err := s.db.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	if !rows.Next() {
		if err := rows.Err(); err != nil {
			return nil, err
		}
		return nil, order.NotFound(id)
	}
	return scanWhole(rows)
}

// maxIn is how many ids one statement takes.
const maxIn = 512

// GetMany reads those of the orders that exist and belong to the owner, in no
// particular order.
func (s *Store) GetMany(ctx context.Context, owner string, ids []string) ([]*orderv1.Order, error) {
	var found []*orderv1.Order
	for len(ids) > 0 {
		n := min(len(ids), maxIn)
		marks, args := sqldb.In(ids[:n])
		ids = ids[n:]
		query := selectOrders + " WHERE o.id IN (" + marks + ")"
		if owner != "" {
			// As an expression: the ids find the rows, and a planner that knows
			// nothing of the table yet must not go through all of the owner's.
			query, args = query+" AND d.user_id || '' = ?", append(args, owner)
		}
		if err := sqldb.Each(ctx, s.db, query, args, func(row sqldb.Scanner) error {
			o, err := scanWhole(row)
			found = append(found, o)
			return err
		}); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// Versions reads the present versions of orders that exist.
func (s *Store) Versions(ctx context.Context, ids []string) (map[string]int64, error) {
	versions := make(map[string]int64, len(ids))
	for len(ids) > 0 {
		n := min(len(ids), maxIn)
		marks, args := sqldb.In(ids[:n])
		ids = ids[n:]
		if err := sqldb.Each(ctx, s.db, "SELECT id, version FROM orders WHERE id IN ("+marks+")", args, func(row sqldb.Scanner) error {
			var id string
			var version int64
			err := row.Scan(&id, &version)
			versions[id] = version
			return err
		}); err != nil {
			return nil, err
		}
	}
	return versions, nil
}

// Entries reads the entries of a waybill after the one of that sequence, oldest
// first. Whose order it is has to be known before.
func (s *Store) Entries(ctx context.Context, id string, after int64) ([]*orderv1.WaybillEntry, error) {
	var entries []*orderv1.WaybillEntry
	err := sqldb.Each(ctx, s.db, "SELECT entry FROM waybill_entries WHERE order_id = ? AND sequence > ? ORDER BY sequence", []any{id, after},
		func(row sqldb.Scanner) error {
			var data []byte
			if err := row.Scan(&data); err != nil {
				return err
			}
			e := &orderv1.WaybillEntry{}
			entries = append(entries, e)
			return proto.Unmarshal(data, e)
		})
	return entries, err
}

// Due gives the orders whose deadline has passed.
func (s *Store) Due(ctx context.Context, now time.Time, limit int) ([]string, error) {
	return sqldb.All(ctx, s.db, "SELECT id FROM orders WHERE timed AND deadline_at <= ? ORDER BY id LIMIT ?", []any{now, limit}, sqldb.Only[string])
}

// ToErase gives orders that have ended and still hold an address of a user who
// was erased.
func (s *Store) ToErase(ctx context.Context, limit int) ([]string, error) {
	return sqldb.All(ctx, s.db, `SELECT d.id FROM erasures e JOIN order_details d ON d.user_id = e.id JOIN orders o ON o.id = d.id
 WHERE e.open AND d.ship_to IS NOT NULL AND o.status IN (?, ?, ?, ?) LIMIT ?`,
		[]any{int64(order.Delivered), int64(order.Returned), int64(order.Rejected), int64(order.Cancelled), limit}, sqldb.Only[string])
}

// Erased gives users erased before some moment none of whose orders holds an
// address any more, so that nothing is left to do.
func (s *Store) Erased(ctx context.Context, before time.Time, limit int) ([]string, error) {
	return sqldb.All(ctx, s.db, `SELECT e.id FROM erasures e WHERE e.open AND e.erased_at < ?
 AND NOT EXISTS (SELECT 1 FROM order_details d WHERE d.user_id = e.id AND d.ship_to IS NOT NULL) LIMIT ?`, []any{before, limit}, sqldb.Only[string])
}

// Check gives what is wrong with the waybills, one line each: an order has as many
// entries as changes, and its last entry says its status.
func (s *Store) Check(ctx context.Context) ([]string, error) {
	var wrong []string
	err := sqldb.Each(ctx, s.db, `SELECT o.id, o.version, o.status, w.entry, (SELECT count(*) FROM waybill_entries c WHERE c.order_id = o.id)
 FROM orders o LEFT JOIN waybill_entries w ON w.order_id = o.id AND w.sequence = o.version`, nil,
		func(row sqldb.Scanner) error {
			var (
				id                     string
				version, status, count int64
				data                   []byte
				last                   orderv1.WaybillEntry
			)
			if err := row.Scan(&id, &version, &status, &data, &count); err != nil {
				return err
			}
			if err := proto.Unmarshal(data, &last); err != nil {
				return err
			}
			if count != version || last.GetSequence() != version {
				wrong = append(wrong, fmt.Sprintf("order %s was changed %d times, its waybill has %d entries", id, version, count))
			} else if int64(last.GetToStatus()) != status {
				wrong = append(wrong, fmt.Sprintf("order %s is %s, its waybill ends with %s", id, order.StatusName(order.Status(status)), order.StatusName(last.GetToStatus())))
			}
			return nil
		})
	return wrong, err
}
