package node_test

import (
	"strings"
	"testing"

	"github.com/waybill-dev/waybill/internal/node"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/sqldb"
)

func TestAProjectionIsRebuiltInTheDatabasesThatAreThere(t *testing.T) {
	e := newEstate(t)
	cfg := quiet(t, e.list()...)
	for _, check := range []bool{true, false} {
		if _, err := node.Project(t.Context(), cfg, check); err == nil {
			t.Error("there are no tables, and nothing is wrong")
		}
	}
	must(t, node.Migrate(t.Context(), cfg, node.MigrateOptions{}))
	for _, check := range []bool{true, false} {
		r, err := node.Project(t.Context(), cfg, check)
		must(t, err)
		if r.Orders != 0 || r.Left() != 0 {
			t.Errorf("without orders: %+v", r)
		}
	}

	// Rows are not written to tables of another version.
	db, err := sqldb.Open(t.Context(), sqldb.Config{URL: e.urls["order"].String(), Schema: "order"})
	must(t, err)
	_, err = db.Exec(t.Context(), `DELETE FROM goose_platform WHERE version_id > 1`)
	must(t, err)
	must(t, db.Close())
	if _, err := node.Project(t.Context(), cfg, false); errs.ReasonOf(err) != sqldb.ReasonDatabaseOlder || !strings.Contains(err.Error(), "waybill migrate") {
		t.Errorf("tables of another version: %v", err)
	}

	cfg.Services = []string{"order", "payment"}
	if _, err := node.Project(t.Context(), cfg, true); errs.ReasonOf(err) != "EVENTS_MISSING" {
		t.Errorf("without all services: %v", err)
	}
}
