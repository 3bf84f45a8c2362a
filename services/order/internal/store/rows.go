package store

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/sqldb"
	opsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/ops/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
	"github.com/waybill-dev/waybill/services/order"
)

// IDs gives up to limit ids after one, in order, of orders of which there is a row
// or a waybill.
func (s *Store) IDs(ctx context.Context, after string, limit int) ([]string, error) {
	return sqldb.All(ctx, s.db, `SELECT id FROM (SELECT id FROM orders WHERE id > ? ORDER BY id LIMIT ?) o
 UNION SELECT order_id FROM (SELECT DISTINCT order_id FROM waybill_entries WHERE order_id > ? ORDER BY order_id LIMIT ?) w
 ORDER BY 1 LIMIT ?`, []any{after, limit, after, limit, limit}, sqldb.Only[string])
}

// Recorded reads what this database has of orders, at most 512, but for their
// events. It does not read at one moment: the waybill of an order that changes
// meanwhile may be ahead of its rows. What cannot be read is as if it were empty.
func (s *Store) Recorded(ctx context.Context, ids []string) ([]*order.Recorded, error) {
	marks, args := sqldb.In(ids)
	all := make([]*order.Recorded, len(ids))
	byID := make(map[string]*order.Recorded, len(ids))
	for i, id := range ids {
		all[i] = &order.Recorded{ID: id}
		byID[id] = all[i]
	}
	err := sqldb.Each(ctx, s.db, `SELECT `+strings.Join(Orders.Columns(), ", ")+` FROM orders WHERE id IN (`+marks+`)`, args, func(row sqldb.Scanner) error {
		var id string
		var r order.Rows
		var err error
		if r.Order, err = scanOrder(row, &id, &r.Version, &r.Said); err == nil {
			byID[id].Rows = r
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	err = sqldb.Each(ctx, s.db, `SELECT `+strings.Join(Details.Columns(), ", ")+` FROM order_details WHERE id IN (`+marks+`)`, args, func(row sqldb.Scanner) error {
		var id string
		var version, said int64
		var c detailsColumns
		if err := row.Scan(append([]any{&id, &version, &said}, c.dest()...)...); err != nil {
			return err
		}
		r := &byID[id].Rows
		r.Details, r.DetailsVersion, r.DetailsSaid = c.readable(), version, said
		return nil
	})
	if err != nil {
		return nil, err
	}
	return all, sqldb.Each(ctx, s.db, `SELECT order_id, entry FROM waybill_entries WHERE order_id IN (`+marks+`) ORDER BY order_id, sequence`, args, func(row sqldb.Scanner) error {
		var id string
		var data []byte
		if err := row.Scan(&id, &data); err != nil {
			return err
		}
		e := &orderv1.WaybillEntry{}
		if proto.Unmarshal(data, e) != nil {
			e = nil
		}
		byID[id].Waybill = append(byID[id].Waybill, e)
		return nil
	})
}

// readable gives details as far as they can be read.
func (r *detailsColumns) readable() order.Details {
	d, err := r.details()
	if err == nil {
		return d
	}
	lines := *r
	lines.shipTo = nil
	if d, err = lines.details(); err != nil {
		lines.lines = nil
		d, _ = lines.details() // there is nothing left that could not be read
	}
	if r.shipTo != nil {
		d.ShipTo = &typev1.Address{}
	}
	return d
}

// Taken tells when events took effect here, by their ids, as far as it is known.
func (s *Store) Taken(ctx context.Context, events []string) (map[string]time.Time, error) {
	taken := make(map[string]time.Time, len(events))
	for some := range slices.Chunk(events, maxIn) {
		marks, args := sqldb.In(some)
		// One that was given up took effect when it was tried again with success,
		// and is in the inbox since the day it was given up: the later one counts.
		err := sqldb.Each(ctx, s.db, `SELECT event_id, processed_at FROM inbox WHERE event_id IN (`+marks+`)
 UNION ALL SELECT event_id, created_at FROM dead_letter_actions WHERE event_id IN (`+marks+`) AND deed = ?`,
			slices.Concat(args, args, []any{int64(opsv1.DeadLetterDeed_DEAD_LETTER_DEED_REDRIVEN)}), func(row sqldb.Scanner) error {
				var id string
				var at time.Time
				if err := row.Scan(&id, &at); err != nil {
					return err
				}
				if at.After(taken[id]) {
					taken[id] = at
				}
				return nil
			})
		if err != nil {
			return nil, err
		}
	}
	return taken, nil
}

// errChanged ends a transaction in vain.
var errChanged = errors.New("the order was changed meanwhile")

// Replace puts rows of an order in place of those that were read, and tells whether
// it did: if they have been changed since, nothing is.
func (s *Store) Replace(ctx context.Context, id string, read, rows order.Rows) (bool, error) {
	err := s.db.InTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		// In the order in which the reactor locks them. Both, whatever differs: no
		// step that changes one of them leaves the version of the order as it is.
		if err := replace(ctx, tx, "order_details", Details.Columns(), read.DetailsVersion,
			append([]any{id, rows.DetailsVersion, rows.DetailsSaid}, detailsRow(rows.Details)...)); err != nil {
			return err
		}
		return replace(ctx, tx, "orders", Orders.Columns(), read.Version, append([]any{id, rows.Version, rows.Said}, orderRow(rows.Order)...))
	})
	if errors.Is(err, errChanged) || errors.Is(err, sqldb.ErrDuplicate) {
		return false, nil
	}
	return err == nil, err
}

// replace writes a row, the first of whose columns is its id, in place of one that
// was read with a version, or of none.
func replace(ctx context.Context, tx *sqldb.Tx, table string, columns []string, version int64, row []any) error {
	if version == 0 {
		_, err := tx.Exec(ctx, `INSERT INTO `+table+` (`+strings.Join(columns, ", ")+`) VALUES (?`+strings.Repeat(", ?", len(columns)-1)+`)`, row...)
		return err
	}
	n, err := tx.Exec(ctx, `UPDATE `+table+` SET `+strings.Join(columns[1:], " = ?, ")+` = ? WHERE id = ? AND version = ?`, append(row[1:len(row):len(row)], row[0], version)...)
	if err == nil && n == 0 {
		err = errChanged
	}
	return err
}
