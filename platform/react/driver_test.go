package react_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/effect"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/outbox"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
)

// heard makes a delivery of StockHeld and tells in ends how it ended.
func heard(t *testing.T, event, order string, ends *[]bus.End) *bus.Delivery {
	t.Helper()
	return heardAt(t, "2", event, order, ends)
}

// heardAt is heard with the event's number among those of its order; the first, of
// no cause, begins everything about it.
func heardAt(t *testing.T, version, event, order string, ends *[]bus.End) *bus.Delivery {
	t.Helper()
	const typ = "waybill.inventory.v1.StockHeld"
	data, err := proto.Marshal(&inventoryv1.StockHeld{OrderId: order})
	if err != nil {
		t.Fatal(err)
	}
	return bus.NewDelivery(bus.Msg{
		ID: event, Subject: outbox.Subject(typ, order), Data: data,
		Header: map[string]string{outbox.HeaderID: event, outbox.HeaderType: typ, outbox.HeaderSubject: order, outbox.HeaderVersion: version},
	}, outbox.Stream("inventory"), 1, 1, time.Unix(0, 0), func(how bus.End, _ time.Duration) error {
		*ends = append(*ends, how)
		return nil
	})
}

func TestADriverDoesWhatItIsToldAndNothingElse(t *testing.T) {
	mem := sqldb.NewMemory()
	var offered []*outbox.Event
	drive, r, err := react.NewDriver(react.Config{
		Machine: counter(addOne), DB: mem.Open(), Log: slog.New(slog.DiscardHandler),
	}, func(events []*outbox.Event, _ []*effect.Call) { offered = append(offered, events...) })
	if err != nil {
		t.Fatal(err)
	}
	var ends []bus.End
	for _, event := range []string{"e1", "e1", "e2"} { // the second is a repetition
		drive.Deliver(heard(t, event, "o", &ends))
	}
	if n := drive.Waiting(); n != 3 || len(ends) != 0 {
		t.Fatalf("%d wait and %d have ended before the batch", n, len(ends))
	}
	drive.Run(10)
	if len(ends) != 3 || ends[0] != bus.Acked || mem.Count("inbox") != 2 || mem.Count("tallies") != 1 {
		t.Errorf("ends %v, %d in the inbox, %d tallies", ends, mem.Count("inbox"), mem.Count("tallies"))
	}
	if len(offered) != mem.Count("outbox") {
		t.Errorf("%d events were offered of %d", len(offered), mem.Count("outbox"))
	}

	var got error
	ctx, cancel := context.WithCancel(t.Context())
	command := func() {
		_, got = react.Do(ctx, r, func(*react.View) []react.Ref { return nil }, func(*react.View) (*inventoryv1.StockHeld, error) {
			return nil, errs.E(errs.Invalid, "NO", "no")
		})
	}
	drive.Command(command)
	if got != nil || drive.Waiting() != 1 {
		t.Fatalf("a command is answered before its batch: %v", got)
	}
	drive.Run(1)
	if errs.ReasonOf(got) != "NO" {
		t.Errorf("the answer of the command is %v", got)
	}
	drive.Command(command)
	drive.Abandon(cancel)
	if !errors.Is(got, context.Canceled) {
		t.Errorf("the abandoned command got %v", got)
	}
}
