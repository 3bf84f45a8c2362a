package system_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waybill-dev/waybill/internal/node"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/sqldb"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
)

// refuseStart fails unless a process with that configuration does not start, and
// says why in the words given.
func refuseStart(t *testing.T, cfg node.Config, words ...string) {
	t.Helper()
	n, err := node.New(soon(t), cfg)
	if err == nil {
		_ = n.Close(context.Background())
		t.Fatal("it starts")
	}
	text := err.Error()
	var e *errs.Error
	if errors.As(err, &e) {
		text += fmt.Sprint(e.Fields)
	}
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("the error does not speak of %q: %s", w, text)
		}
	}
	if strings.Contains(text, "goroutine") || len(found([]byte(text))) > 0 {
		t.Errorf("the error tells too much: %s", text)
	}
}

func TestAProcessThatCannotRunSaysWhy(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	t.Run("a port that is taken", func(t *testing.T) {
		for flag, change := range map[string]func(*node.Config){
			"http-addr":  func(c *node.Config) { c.HTTPAddr = strings.TrimPrefix(w.base, "http://") },
			"grpc-addr":  func(c *node.Config) { c.GRPCAddr = w.addr },
			"admin-addr": func(c *node.Config) { c.AdminAddr = strings.TrimPrefix(w.processes[0].node.AdminURL(), "http://") },
		} {
			cfg := quick(t.TempDir())
			change(&cfg)
			refuseStart(t, cfg, flag)
		}
	})
	t.Run("a data directory that another process uses", func(t *testing.T) {
		refuseStart(t, quick(w.dir), "use")
		w.alive(t, w.product(t, euro(1), 1).GetProductId())
	})
	t.Run("a data directory that is a file", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		must(t, os.WriteFile(file, []byte("hello"), 0o600))
		refuseStart(t, quick(file), file)
	})
	t.Run("a database that is none", func(t *testing.T) {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, "order.db"), []byte(strings.Repeat("this is no database ", 1000)), 0o600))
		refuseStart(t, quick(dir), "order")
	})
	t.Run("a database of a newer version", func(t *testing.T) {
		cfg := quick(t.TempDir())
		cfg.Services = []string{"inventory"}
		must(t, node.Migrate(soon(t), cfg, node.MigrateOptions{}))
		db, err := sqldb.Open(soon(t), sqldb.Config{URL: "sqlite://" + filepath.Join(cfg.Data, "inventory.db")})
		must(t, err)
		_, err = db.Exec(soon(t), "INSERT INTO goose_inventory (version_id, is_applied) VALUES (?, ?)", 9999, true)
		must(t, err)
		must(t, db.Close())
		refuseStart(t, cfg, "inventory", "newer")
	})
	t.Run("a Postgres that is not there", func(t *testing.T) {
		cfg := quick(t.TempDir())
		cfg.DB = []string{"postgres://waybill:" + secret("database-password") + "@127.0.0.1:1/waybill"}
		refuseStart(t, cfg, "127.0.0.1:1")
	})
	t.Run("settings that cannot be meant", func(t *testing.T) {
		for word, change := range map[string]func(*node.Config){
			"services":    func(c *node.Config) { c.Services = []string{"orders"} },
			"upstream":    func(c *node.Config) { c.Upstream = []string{"order"} },
			"db":          func(c *node.Config) { c.DB = []string{"mysql://localhost"} },
			"batch_size":  func(c *node.Config) { c.BatchSize = 0 },
			"trace.ratio": func(c *node.Config) { c.Trace.Ratio = 2 },
		} {
			cfg := quick(t.TempDir())
			change(&cfg)
			refuseStart(t, cfg, word)
		}
	})
}

// TestARestartGoesOnWhereItEnded stops a process in the middle of its orders and
// starts another on the same directory.
func TestARestartGoesOnWhereItEnded(t *testing.T) {
	t.Parallel()
	w, err := start(atDesk)
	must(t, err)
	if w.admin, err = w.logIn(adminEmail, secret("admin-password")); err != nil {
		t.Fatal(err)
	}
	u, p := w.customer(t), w.product(t, euro(100), 50)
	var placed []string
	for range 10 {
		placed = append(placed, w.place(t, grpcDoor{}, u, cart(p, 1, "tok_slow")).GetOrderId())
	}
	must(t, w.stop())
	again, err := start(func(c *node.Config) { atDesk(c); c.Data = w.dir })
	must(t, err)
	again.admin, err = again.logIn(adminEmail, secret("admin-password"))
	must(t, err)
	for _, id := range placed { // with the token of before: keys outlive processes
		if o := again.until(t, u, id, sagaOver); o.GetStatus() != orderv1.OrderStatus_ORDER_STATUS_SCHEDULED {
			t.Errorf("order %s ends %s %s", id, o.GetStatus(), o.GetReason())
		}
	}
	if s := again.stock(t, p.GetProductId()); s.GetOnHand() != 40 || s.GetHeld() != 0 {
		t.Errorf("%v", s)
	}
	must(t, again.balanced())
}
