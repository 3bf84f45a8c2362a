package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/services/order/orderd"
)

// Project makes the rows of all orders anew from the events in the outboxes of the
// services, whose databases must exist, and writes those that differ; with check it
// only finds them, and changes nothing. See orderd.Rebuild. It may run beside serving
// processes on Postgres; a SQLite file belongs to the process that serves from it.
//
// It fails with Invalid unless cfg names all services that orders are made from,
// and when a database cannot be opened, read or written, or has tables of another
// version than it would write.
func Project(ctx context.Context, cfg Config, check bool) (_ *orderd.Report, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	for _, name := range orderd.Sources() {
		if !slices.Contains(cfg.run(), name) {
			return nil, errs.E(errs.Invalid, "EVENTS_MISSING", "--services leaves out %s; orders are made from the events of %s", name, strings.Join(orderd.Sources(), ", "))
		}
	}
	dbs := map[string]*sqldb.DB{}
	defer func() {
		for _, db := range dbs {
			err = errors.Join(err, db.Close())
		}
	}()
	open := func(name string, readOnly bool) error {
		dsn, schema := cfg.database(name)
		db, err := sqldb.Open(ctx, sqldb.Config{URL: dsn, Schema: schema, ReadOnly: readOnly, CheckOnly: true, StatementTimeout: inspectTimeout, MaxConns: 2})
		if err != nil {
			return fmt.Errorf("open the database of %s: %w", name, err)
		}
		dbs[name] = db
		return nil
	}
	for _, name := range orderd.Sources() {
		if err := open(name, true); err != nil {
			return nil, err
		}
	}
	if !check { // it was opened for reading first, so that none is made that is not there
		if err := dbs["order"].Close(); err != nil {
			return nil, err
		}
		delete(dbs, "order")
		if err := open("order", false); err != nil {
			return nil, err
		}
		if err := orderd.Migrate(ctx, dbs["order"]); err != nil {
			return nil, adviseMigration(err)
		}
	}
	return orderd.Rebuild(ctx, dbs, cfg.Order, check)
}
