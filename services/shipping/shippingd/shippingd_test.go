package shippingd_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"testing"

	"github.com/waybill-dev/waybill/platform/app"
	"github.com/waybill-dev/waybill/platform/bus/bustest"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	"github.com/waybill-dev/waybill/services/shipping/shippingd"
)

func TestMain(m *testing.M) { os.Exit(bustest.Main(m)) }

func TestTheUnitStartsAndStopsOnEveryDatabase(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		b := bustest.Embedded(t).Open()
		for range 2 { // the second time on what the first has left
			unit, err := shippingd.New(t.Context(), &app.Env{
				Log: slog.New(slog.DiscardHandler), Bus: b,
				OpenDB: func(_ context.Context, service string) (*sqldb.DB, error) { return open(service), nil },
			}, shippingd.DefaultConfig())
			if err != nil {
				t.Fatal(err)
			}
			if unit.Name != "shipping" {
				t.Errorf("it is called %s", unit.Name)
			}
			if err := errors.Join(unit.Start(t.Context()), unit.Ready(t.Context()), unit.Stop(t.Context())); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestAConfigurationThatCannotBeMeantOpensNothing(t *testing.T) {
	for name, change := range map[string]func(*shippingd.Config){
		"scans":   func(c *shippingd.Config) { c.ScanEvery = -1 },
		"recheck": func(c *shippingd.Config) { c.Recheck = 0 },
		"timeout": func(c *shippingd.Config) { c.CarrierTimeout = 0 },
		"sweep":   func(c *shippingd.Config) { c.SweepEvery = -1 },
	} {
		cfg := shippingd.DefaultConfig()
		if err := cfg.Validate(); err != nil {
			t.Fatal(err)
		}
		change(&cfg)
		_, err := shippingd.New(t.Context(), &app.Env{OpenDB: func(context.Context, string) (*sqldb.DB, error) {
			t.Errorf("%s: the database was opened", name)
			return nil, errors.New("no")
		}}, cfg)
		if errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestADatabaseThatCannotBeOpenedIsAnError(t *testing.T) {
	away := errors.New("away")
	_, err := shippingd.New(t.Context(), &app.Env{OpenDB: func(context.Context, string) (*sqldb.DB, error) { return nil, away }}, shippingd.DefaultConfig())
	if !errors.Is(err, away) {
		t.Errorf("%v", err)
	}
}
