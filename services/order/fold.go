package order

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
)

// An Event is an event as an outbox keeps it.
type Event struct {
	ID      string
	Version int64 // its place among the events of its aggregate, from 1
	Cause   string
	Time    time.Time
	Message proto.Message // nil if it cannot be read
}

// Rows is an order as the tables have it.
type Rows struct {
	Order   Order
	Version int64 // how often it was changed; 0 if there is no row
	Said    int64 // how many events it has emitted

	Details        Details
	DetailsVersion int64
	DetailsSaid    int64
}

// Recorded is all that is known of an order: its rows, and what they come from.
type Recorded struct {
	ID      string
	Rows    Rows
	Waybill []*orderv1.WaybillEntry // in order; nil is one that cannot be read
	Taken   map[string]time.Time    // when events took effect, by their ids
	Heard   map[string]Event        // events of other services, by their ids
	Said    map[int64]Event         // its own events, by their versions
}

// Folded is what an order is by its events.
type Folded struct {
	Rows    Rows     // as they should be, if nothing is Wrong
	Events  int      // that it was made from or that it emitted
	Differs []string // what the tables have otherwise
	Wrong   []string // where events and waybill contradict each other, so that nobody can tell what is right
	Lacks   bool     // an event was not among those given
	TooOld  bool     // such an event is so old that it need not be kept any more; nothing else is known then
}

// Fold makes an order anew: it applies what the waybill tells of, in that order,
// and takes everything else from the events. What was recorded after kept must
// have its events. It changes nothing of r.
//
// Not known from events is how long a deadline was; of that only whether there is
// one. When something took effect that is not in r.Taken is not known either. Both
// are left as they are.
func (d Deadlines) Fold(r Recorded, kept time.Time) Folded {
	f := &folding{d: d, r: r, kept: kept}
	for i, e := range r.Waybill {
		if !f.next(i+1, e) {
			break
		}
	}
	switch {
	case f.out.TooOld:
		return Folded{TooOld: true}
	case len(r.Waybill) == 0:
		f.wrong("it has no waybill")
	case len(f.out.Wrong) == 0:
		f.end()
	}
	return f.out
}

// A folding is an order on its way through its events.
type folding struct {
	d    Deadlines
	r    Recorded
	kept time.Time
	out  Folded

	moved, over bool // whether it is known when the order last changed, and when its saga was over
}

func (f *folding) wrong(format string, args ...any) bool {
	f.out.Wrong = append(f.out.Wrong, fmt.Sprintf(format, args...))
	return false
}

// next does what the n-th entry tells of, and tells whether it could.
func (f *folding) next(n int, e *orderv1.WaybillEntry) bool {
	switch {
	case e == nil:
		return f.wrong("entry %d of its waybill cannot be read", n)
	case e.GetSequence() != int64(n):
		return f.wrong("its waybill has entry %d in place of %d", e.GetSequence(), n)
	case n == 1:
		return f.place(e)
	}
	in, at, ok := f.input(e)
	if !ok {
		return false
	}
	known := !at.IsZero()
	if !known {
		at = e.GetTime().AsTime()
	}
	before := f.out.Rows.Order.SagaOverAt
	o, out, err := f.d.Apply(f.r.ID, f.out.Rows.Order, in, at)
	if err != nil || !out.Changed() {
		return f.wrong("entry %d tells of %s, which changes nothing in %s", n, in.Message, StatusName(out.From))
	}
	if !f.same(Entry(in, out), e) {
		return false
	}
	for _, want := range out.Events {
		got, ok := f.said(e)
		if !ok {
			return false
		}
		if !proto.Equal(want, got.Message) {
			return f.wrong("its event %d is %s, and entry %d makes it %s", f.out.Rows.Said, nameOf(got.Message), n, nameOf(want))
		}
	}
	f.out.Rows.Order = o
	f.moved = known
	if !o.SagaOverAt.Equal(before) {
		f.over = known
	}
	if in.Message == UserErased {
		f.out.Rows.Details.ShipTo = nil
		f.out.Rows.DetailsVersion++
	}
	return true
}

// place does what the first entry tells of.
func (f *folding) place(e *orderv1.WaybillEntry) bool {
	said, ok := f.said(e)
	if !ok {
		return false
	}
	p, ok := said.Message.(*orderv1.OrderPlaced)
	if !ok || p.GetOrderId() != f.r.ID {
		return f.wrong("its first event is %s, and not that it was placed", nameOf(said.Message))
	}
	at := p.GetPlacedAt().AsTime()
	f.out.Rows.Order = f.d.New(at)
	f.out.Rows.Details = Details{UserID: p.GetUserId(), Lines: p.GetLines(), Total: p.GetTotal(), ShipTo: p.GetShipTo(), CreatedAt: at}
	f.out.Rows.DetailsVersion = 1
	f.moved = true
	return f.same(PlacedEntry(f.out.Rows.Details, e.GetCauseId()), e)
}

// input gives what an entry tells of as it was when it happened, and when it took
// effect if that is known.
func (f *folding) input(e *orderv1.WaybillEntry) (in Input, at time.Time, ok bool) {
	if id := e.GetEventId(); id != "" {
		heard, found := f.r.Heard[id]
		if !found {
			return in, at, f.lacks(e, "event %s of %s, of which entry %d tells,", id, e.GetService(), e.GetSequence())
		}
		f.out.Events++
		about, _ := heard.Message.(interface{ GetOrderId() string })
		in, ok = Read(heard.Message)
		if !ok || about.GetOrderId() != f.r.ID || !e.GetTime().AsTime().Equal(heard.Time) || e.GetCauseId() != heard.Cause {
			return in, at, f.wrong("event %s of %s is not the one of which entry %d tells", id, e.GetService(), e.GetSequence())
		}
		return in, f.r.Taken[id], true
	}
	at = e.GetTime().AsTime()
	in.Request = e.GetCauseId()
	switch e.GetEvent() {
	case UserErased.Event():
		in.Message, in.Detail = UserErased, e.GetDetail()
	case DeadlinePassed.Event():
		in.Message = DeadlinePassed
	case CancelRequested.Event():
		in = f.wish(CancelRequested, e)
	case ReturnRequested.Event():
		in = f.wish(ReturnRequested, e)
	default:
		return in, at, f.wrong("entry %d tells of %s, by no event", e.GetSequence(), e.GetEvent())
	}
	return in, at, true
}

// wish gives what somebody asked for. The words are in the event that followed. In
// the status to which the wish leads it is a reminder.
func (f *folding) wish(m Message, e *orderv1.WaybillEntry) Input {
	if RuleFor(f.out.Rows.Order.Status, DeadlinePassed).Action == Remind {
		return Input{Message: DeadlinePassed, Request: e.GetCauseId()}
	}
	var words string
	switch said := f.r.Said[f.out.Rows.Said+1].Message.(type) {
	case *orderv1.OrderCancelling:
		words = said.GetDetail()
	case *orderv1.OrderReturnRequested:
		words = said.GetReason()
	}
	shop := Wish(m, true, words, e.GetCauseId())
	if e.GetDetail() == shop.Detail {
		return shop
	}
	return Wish(m, false, words, e.GetCauseId())
}

// same tells whether an entry is as it has to be.
func (f *folding) same(want, got *orderv1.WaybillEntry) bool {
	for _, c := range []struct{ what, want, got string }{
		{"service", want.GetService(), got.GetService()},
		{"event", want.GetEvent(), got.GetEvent()},
		{"from_status", StatusName(want.GetFromStatus()), StatusName(got.GetFromStatus())},
		{"to_status", StatusName(want.GetToStatus()), StatusName(got.GetToStatus())},
		{"detail", want.GetDetail(), got.GetDetail()},
	} {
		if c.want != c.got {
			return f.wrong("entry %d has %s %q, and its events make it %q", got.GetSequence(), c.what, c.got, c.want)
		}
	}
	return true
}

// said gives the order's next event, which an entry made it emit.
func (f *folding) said(e *orderv1.WaybillEntry) (Event, bool) {
	f.out.Rows.Said++
	got, ok := f.r.Said[f.out.Rows.Said]
	if !ok {
		return got, f.lacks(e, "its event %d, which entry %d made it emit,", f.out.Rows.Said, e.GetSequence())
	}
	f.out.Events++
	return got, true
}

// lacks notes that an event of an entry is not there.
func (f *folding) lacks(e *orderv1.WaybillEntry, format string, args ...any) bool {
	if !e.GetTime().AsTime().After(f.kept) {
		f.out.TooOld = true
		return false
	}
	f.out.Lacks = true
	return f.wrong("%s is not in the outbox", fmt.Sprintf(format, args...))
}

// end holds the rows against those that are stored.
func (f *folding) end() {
	want, got := &f.out.Rows, f.r.Rows
	want.Version = int64(len(f.r.Waybill))
	for v := range f.r.Said {
		if v > want.Said {
			f.wrong("its event %d, %s, belongs to no entry", v, nameOf(f.r.Said[v].Message))
			return
		}
	}
	if got.Said > want.Said {
		f.out.Lacks = true // or the row is wrong
	}
	if !f.moved && got.Version > 0 {
		want.Order.UpdatedAt = got.Order.UpdatedAt
	}
	if !f.over && !want.Order.SagaOverAt.IsZero() && !got.Order.SagaOverAt.IsZero() {
		want.Order.SagaOverAt = got.Order.SagaOverAt
	}
	if !want.Order.Deadline.IsZero() && !got.Order.Deadline.IsZero() {
		want.Order.Deadline = got.Order.Deadline
	}
	f.out.Differs = differs(got, *want)
	if got.Version > want.Version && len(f.out.Differs) > 1 {
		f.wrong("it was changed %d times, and its waybill has %d entries", got.Version, want.Version)
	}
}

// differs names what rows have otherwise than they should. What is personal is not
// shown.
func differs(got, want Rows) []string {
	var c comparison
	if got.Version == 0 {
		c = append(c, "there is no row in orders")
	} else {
		g, w := got.Order, want.Order
		c.of("version", got.Version, want.Version)
		c.of("event_seq", got.Said, want.Said)
		c.of("status", StatusName(g.Status), StatusName(w.Status))
		c.of("reason", ReasonName(g.Reason), ReasonName(w.Reason))
		c.hidden("words", g.Words == w.Words)
		c.of("shipment", StatusName(g.Shipment), StatusName(w.Shipment))
		c.of("payment_id", g.PaymentID, w.PaymentID)
		c.of("shipment_id", g.ShipmentID, w.ShipmentID)
		c.of("tracking_number", g.TrackingNumber, w.TrackingNumber)
		c.of("timed", !g.Deadline.IsZero(), !w.Deadline.IsZero())
		c.of("reminders", g.Reminders, w.Reminders)
		c.of("saga_over_at", instant(g.SagaOverAt), instant(w.SagaOverAt))
		c.of("updated_at", instant(g.UpdatedAt), instant(w.UpdatedAt))
	}
	if got.DetailsVersion == 0 {
		return append(c, "there is no row in order_details")
	}
	g, w := got.Details, want.Details
	c.of("version of the details", got.DetailsVersion, want.DetailsVersion)
	c.of("event_seq of the details", got.DetailsSaid, want.DetailsSaid)
	c.of("user_id", g.UserID, w.UserID)
	c.of("created_at", instant(g.CreatedAt), instant(w.CreatedAt))
	c.of("total_minor", g.Total.GetMinorUnits(), w.Total.GetMinorUnits())
	c.of("total_currency", g.Total.GetCurrencyCode(), w.Total.GetCurrencyCode())
	c.hidden("lines", proto.Equal(&orderv1.Order{Lines: g.Lines}, &orderv1.Order{Lines: w.Lines}))
	c.hidden("ship_to", proto.Equal(g.ShipTo, w.ShipTo))
	return c
}

type comparison []string

func (c *comparison) of(what string, got, want any) {
	if got != want {
		*c = append(*c, fmt.Sprintf("%s is %v, and its events make it %v", what, got, want))
	}
}

func (c *comparison) hidden(what string, same bool) {
	if !same {
		*c = append(*c, what+" is not what its events make it")
	}
}

func instant(t time.Time) string {
	if t.IsZero() {
		return "absent"
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func nameOf(m proto.Message) string {
	if m == nil {
		return "one that cannot be read"
	}
	return string(m.ProtoReflect().Descriptor().Name())
}
