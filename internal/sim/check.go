package sim

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/internal/invariant"
	"github.com/waybill-dev/waybill/platform/outbox"
	"github.com/waybill-dev/waybill/platform/sqldb"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	"github.com/waybill-dev/waybill/services/order"
	"github.com/waybill-dev/waybill/services/order/orderd"
)

// build makes what is in the world.
func (w *world) build() error {
	replicas := 1 + w.plan.IntN(2)
	switch w.opt.Mutant {
	case TwoRelays, LocksOff, VersionsOff, MemoryFirst:
		replicas = 2
	default:
	}
	w.bank, w.carrier = newBank(w), newCarrier(w)
	for _, name := range []string{"inventory", "order", "payment", "shipping"} {
		w.newService(name, replicas)
	}
	w.broker = newBroker(w)
	for _, s := range w.services {
		for _, p := range s.replicas {
			p.start()
		}
	}
	w.stockUp()
	for n := range w.opt.Orders {
		w.customers = append(w.customers, w.newCustomer(n))
	}
	if w.rates.tail > 0 {
		for range 1 + w.fate.IntN(2) {
			name := w.services[w.fate.IntN(len(w.services))].name
			w.after(time.Duration(w.fate.Int64N(int64(troubles-time.Minute))), func() { w.broker.loseTail(name) })
		}
	}
	return nil
}

// maxBatch gives how many messages a process takes into one transaction.
func (w *world) maxBatch() int { return []int{1, 3, 16, 512}[w.seed%4] }

// holdTTL gives how long stock is held; in some worlds hardly long enough.
func (w *world) holdTTL() time.Duration {
	return []time.Duration{15 * time.Minute, 15 * time.Minute, 90 * time.Second, 20 * time.Second}[w.seed/4%4]
}

// deadlines gives how long an order may stay in a status; in some worlds not long.
func (w *world) deadlines() orderd.DeadlineConfig {
	d := orderd.DefaultConfig().Deadline
	if w.seed/2%4 == 1 {
		d.Placed, d.Held, d.Authorized, d.Committed, d.Captured = time.Minute, 90*time.Second, time.Minute, 90*time.Second, 90*time.Second
	}
	return d
}

// books reads the books of all services.
func (w *world) books() (*invariant.Books, error) {
	return invariant.Read(context.Background(), func(s string) *sqldb.DB { return w.service(s).mem.Open() })
}

// check looks at what must always hold.
func (w *world) check() error {
	b, err := w.books()
	if err != nil {
		return err
	}
	for _, v := range b.Always() {
		w.wrong(v)
	}
	for _, v := range b.Overdue(w.now.Add(-2*w.rates.skew - overdue)) {
		w.wrong(v)
	}
	return nil
}

// quiet tells whether there is nothing left to happen but the ticking of clocks.
func (w *world) quiet() bool {
	for _, s := range w.services {
		if len(s.pending) > 0 || s.mem.Count("effects") > 0 {
			return false
		}
		for _, p := range s.replicas {
			if p.up && p.drive.Waiting() > 0 {
				return false
			}
		}
	}
	for _, c := range w.customers {
		if c.open() || c.id != "" && !order.Terminal(w.statusOf(c.id)) {
			return false
		}
	}
	return w.unheard() == ""
}

// unheard names an event that a service hears and has not handled, "" if there is none.
func (w *world) unheard() string {
	for _, to := range w.services {
		inbox := map[string]bool{}
		err := sqldb.Each(context.Background(), to.mem.Open(), `SELECT event_id FROM inbox`, nil, func(s sqldb.Scanner) error {
			id, err := sqldb.Only[string](s)
			inbox[id] = true
			return err
		})
		if err != nil {
			return err.Error()
		}
		for _, from := range w.services {
			for _, r := range from.rows {
				if to.listens(r.Type) && !inbox[r.ID] {
					return fmt.Sprintf("%s never handled %s %s of %s", to.name, r.Type, r.ID, from.name)
				}
			}
		}
	}
	return ""
}

// final looks at what must hold once everything is over.
func (w *world) final() error {
	b, err := w.books()
	if err != nil {
		return err
	}
	for _, v := range b.Settled() {
		w.wrong(v)
	}
	for _, c := range w.customers {
		switch {
		case c.id == "" && !c.failed:
			w.violated("orders", "", "customer %d never got an answer", c.n)
		case c.open():
			w.violated("not over", c.id, "has a wish that is never answered")
		}
	}
	if n := w.service("order").mem.Count("orders"); n != len(w.customers) {
		w.violated("idempotency", "", "there are %d orders of %d requests", n, len(w.customers))
	}
	for _, o := range b.Orders {
		p := b.Payment.Payments[o.ID]
		if taken, back := w.bank.balance(o.ID); taken != p.Captured() || back != p.Refunded() {
			w.violated("provider", o.ID, "has %d taken and %d paid back, the provider says %d and %d", p.Captured(), p.Refunded(), taken, back)
		}
		if w.bank.open(o.ID) && order.Terminal(o.Status) {
			w.violated("provider", o.ID, "is %s, and its money is still set aside", order.StatusName(o.Status))
		}
	}
	w.parcels(b)
	w.events()
	if text := w.unheard(); text != "" {
		w.violated("lost event", "", "%s", text)
	}
	for _, s := range w.services {
		if n := len(s.pending); n > 0 {
			w.violated("not over", "", "%s has %d events that were never published", s.name, n)
		}
		if n := s.mem.Count("effects"); n > 0 {
			w.violated("not over", "", "%s has %d calls that were never answered", s.name, n)
		}
		if n := s.mem.Count("dead_letters"); n > 0 {
			w.violated("dead letter", "", "%s has %d", s.name, n)
		}
	}
	w.recall(b)
	return w.refold()
}

// parcels holds the carrier's parcels against the orders.
func (w *world) parcels(b *invariant.Books) {
	of := map[string]int{}
	for _, p := range w.carrier.parcels {
		of[p.order]++
		if of[p.order] > 1 {
			w.violated("parcel", p.order, "was booked twice")
		}
	}
	status := map[string]order.Status{}
	for _, o := range b.Orders {
		status[o.ID] = o.Status
	}
	for _, p := range w.carrier.parcels {
		if status[p.order] == order.Cancelled && !p.off && !p.lost {
			w.violated("parcel", p.order, "is CANCELLED, and its parcel is on its way")
		}
	}
}

// events: versions have no gaps, and the streams hold them in order.
func (w *world) events() {
	for _, s := range w.services {
		last := map[string]int64{}
		byID := map[string]*row{}
		for _, r := range s.rows {
			byID[r.ID] = r
			if r.Version != last[r.AggregateID]+1 {
				w.violated("event order", r.AggregateID, "has event %d of %s after %d", r.Version, s.name, last[r.AggregateID])
			}
			last[r.AggregateID] = r.Version
		}
		seen := map[string]bool{}
		came := map[string]int64{}
		for _, e := range w.broker.streams[s.name].events() {
			r := byID[e.ID]
			if r == nil {
				w.violated("event order", "", "stream %s has %s, which is in no outbox", s.name, e.ID)
				continue
			}
			if seen[e.ID] {
				continue
			}
			seen[e.ID] = true
			if r.Version != came[r.AggregateID]+1 {
				w.violated("event order", r.AggregateID, "has event %d in stream %s after %d", r.Version, s.name, came[r.AggregateID])
			}
			came[r.AggregateID] = r.Version
		}
		for _, r := range s.rows {
			if r.marked && !seen[r.ID] {
				w.violated("lost event", r.AggregateID, "has event %d of %s marked as published, and it is in no stream", r.Version, s.name)
			}
		}
	}
}

// witness looks at each event when it is committed.
func (w *world) witness(s *service, e *outbox.Event) {
	w.counts["events"]++
	of := s.said[e.AggregateID]
	if of == nil {
		of = map[string]int{}
		s.said[e.AggregateID] = of
	}
	name := e.Type[strings.LastIndexByte(e.Type, '.')+1:]
	of[name]++
	w.count("event " + name)
	switch name {
	case "StockHeld":
		m := &inventoryv1.StockHeld{}
		if proto.Unmarshal(e.Payload, m) == nil {
			s.said[e.AggregateID]["until"] = int(m.GetExpiresAt().AsTime().UnixMilli())
		}
	case "StockCommitted":
		until := time.UnixMilli(int64(of["until"]))
		switch {
		case of["until"] == 0:
			w.violated("expired stock sold", e.AggregateID, "was sold what was not held")
		case !e.Time.Before(until) && of[name] == 1:
			w.violated("expired stock sold", e.AggregateID, "was sold at %s what was held until %s", e.Time.Format(time.TimeOnly), until.Format(time.TimeOnly))
		case until.Sub(e.Time) < 10*time.Second:
			w.count("hold sold shortly before its end")
		}
	}
}

// recall looks for what rarely happens, in what was said about the orders.
func (w *world) recall(b *invariant.Books) {
	for _, s := range w.services {
		for _, r := range s.rows {
			said := s.said[r.AggregateID]
			switch {
			case strings.HasSuffix(r.Type, ".StockReleased"):
				m := &inventoryv1.StockReleased{}
				if proto.Unmarshal(r.Payload, m) == nil && m.GetNoop() && said["StockHeld"] == 0 && said["StockRejected"] == 0 {
					w.count("null compensation of stock")
					w.count("hanging order found the door closed")
				}
			case strings.HasSuffix(r.Type, ".StockExpired"):
				w.count("hold ran out")
			case strings.HasSuffix(r.Type, ".ShipmentCancelled"):
				m := &shippingv1.ShipmentCancelled{}
				if proto.Unmarshal(r.Payload, m) == nil && m.GetNoop() {
					w.count("null compensation of a parcel")
				}
			case strings.HasSuffix(r.Type, ".PaymentReversed"):
				m := &paymentv1.PaymentReversed{}
				if proto.Unmarshal(r.Payload, m) != nil {
					continue
				}
				switch {
				case m.GetNoop():
					w.count("null compensation of a payment")
				case m.GetVoided() != nil && said["PaymentAuthorized"] == 0:
					w.count("authorization that came after the cancellation")
				case m.GetRefunded() != nil && said["PaymentCaptured"] == 0:
					w.count("capture that came after the cancellation")
				}
			}
		}
	}
	for _, o := range b.Orders {
		w.count("order " + order.StatusName(o.Status))
	}
}

// waybill gives the timeline of an order, a line for each entry.
func (w *world) waybill(orderID string) []string {
	b, err := w.books()
	if err != nil {
		return []string{err.Error()}
	}
	for _, o := range b.Orders {
		if o.ID != orderID {
			continue
		}
		var lines []string
		for _, e := range o.Waybill {
			lines = append(lines, strings.TrimSpace(fmt.Sprintf("%3s  %s  %-10s %-24s %-10s  %s", strconv.FormatInt(e.GetSequence(), 10),
				e.GetTime().AsTime().Format("15:04:05.000"), e.GetService(), e.GetEvent(), order.StatusName(e.GetToStatus()), e.GetDetail())))
		}
		return lines
	}
	return nil
}
