package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/waybill-dev/waybill/internal/invariant"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/rpc"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
	"github.com/waybill-dev/waybill/services/order"
)

const (
	checkPage   = 100                    // orders that are listed at once, the most there may be
	checkAtOnce = 8                      // waybills that are read at once
	checkAgain  = 100 * time.Millisecond // before a server that is away is asked again
)

// Invariants is what came of holding the orders of a run against what must be true
// of each, however the run went.
type Invariants struct {
	Placed int      `json:"placed"` // orders that the server said it had taken on
	Orders int      `json:"orders"` // orders that were looked at, each with its waybill
	Open   int      `json:"open"`   // of them were not over
	Books  bool     `json:"books"`  // whether the databases of the services were held against each other as well
	Wrong  []string `json:"wrong"`  // one line for each thing that is not as it must be, with its order
}

// ledger is what a customer was told about orders.
type ledger struct {
	mu     sync.Mutex
	placed []placement
	unsure []uuid.UUID // requests that failed, of which an order may have come all the same
	wrong  []string
}

// placement is an order and the request that it came from.
type placement struct{ request, order uuid.UUID }

// note keeps what became of a request.
func (l *ledger) note(requestID, orderID string, err error) {
	request := uuid.MustParse(requestID) // made here
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.unsure = append(l.unsure, request)
		return
	}
	id, err := uuid.Parse(orderID)
	if err != nil {
		l.wrong = append(l.wrong, fmt.Sprintf("request %s was answered with %q, which is not the id of an order", request, orderID))
		return
	}
	l.placed = append(l.placed, placement{request, id})
}

// Placed is the orders of a run, for Check.
type Placed struct{ run *runner }

// found is what a list said of an order, in few bytes: there may be many.
type found struct {
	customer *watcher
	id       uuid.UUID
	request  uuid.UUID // that it was the answer to; zero: it was never heard of
	version  int64
	status   order.Status
}

// checker looks at the orders of one run.
type checker struct {
	*runner
	mu     sync.Mutex
	result *Invariants
	found  []found
	causes map[uuid.UUID]uuid.UUID // requests to the orders that came of them without an answer
}

// Check holds what the server has of the orders of the run against what must be
// true: each that it said it had taken on exists, once, with the sum of its lines,
// and its waybill has every step from its request to where it is now; and no other
// order came of the requests. It reads, in the names of the customers, as many as
// it can within limit, at random; Orders says how many. The error is that of a
// server that cannot be read, with what was found until then.
func (p *Placed) Check(ctx context.Context, limit time.Duration) (*Invariants, error) {
	ctx, cancel := context.WithCancel(ctx) // no deadline, which the server would see: it is not late
	defer cancel()
	defer time.AfterFunc(limit, cancel).Stop()
	c := &checker{runner: p.run, result: &Invariants{Wrong: []string{}}, causes: map[uuid.UUID]uuid.UUID{}}
	c.answers()
	var lists errgroup.Group
	for _, w := range c.watchers {
		lists.Go(func() error { return c.list(ctx, w) })
	}
	if err := lists.Wait(); err != nil {
		return c.result, fmt.Errorf("list what became of the orders: %w", err)
	}
	rand.Shuffle(len(c.found), func(i, j int) { c.found[i], c.found[j] = c.found[j], c.found[i] })
	var next atomic.Int64
	var readers errgroup.Group
	for range checkAtOnce {
		readers.Go(func() error {
			for n := next.Add(1) - 1; n < int64(len(c.found)) && ctx.Err() == nil; n = next.Add(1) - 1 {
				if err := c.waybill(ctx, c.found[n]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := readers.Wait(); err != nil {
		return c.result, fmt.Errorf("read what became of the orders: %w", err)
	}
	return c.result, nil
}

func (c *checker) say(format string, a ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.result.Wrong = append(c.result.Wrong, fmt.Sprintf(format, a...))
}

// answers looks at what customers were told: no two requests got the same order.
func (c *checker) answers() {
	given := map[uuid.UUID]uuid.UUID{}
	for _, w := range c.watchers {
		for _, line := range w.ledger.wrong {
			c.say("%s", line)
		}
		c.result.Placed += len(w.ledger.placed)
		for _, p := range w.ledger.placed {
			if first, twice := given[p.order]; twice {
				c.say("order %s was the answer to two requests, %s and %s", p.order, first, p.request)
			}
			given[p.order] = p.request
		}
	}
}

// list reads the orders of a customer, whose account was opened for the run.
func (c *checker) list(ctx context.Context, w *watcher) error {
	expected := map[uuid.UUID]uuid.UUID{}
	for _, p := range w.ledger.placed {
		expected[p.order] = p.request
	}
	missing := len(expected)
	seen := make(map[uuid.UUID]bool, missing)
	var all []found
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.found = append(c.found, all...)
	}()
	req := &orderv1.ListOrdersRequest{PageSize: checkPage, OrderBy: "create_time"}
	for {
		var page *orderv1.ListOrdersResponse
		err := patiently(ctx, func() (err error) {
			page, err = w.client.ListOrders(w.customer.Context(ctx), req)
			return err
		})
		if err != nil {
			return unlessOver(err)
		}
		for _, o := range page.GetOrders() {
			id, err := uuid.Parse(o.GetOrderId())
			if err != nil || seen[id] {
				c.say("order %s is listed twice, or under an id that is none", o.GetOrderId())
				continue
			}
			seen[id] = true
			if text := sum(o); text != "" {
				c.say("order %s %s", id, text)
			}
			all = append(all, found{w, id, expected[id], o.GetVersion(), o.GetStatus()})
		}
		if req.PageToken = page.GetNextPageToken(); req.GetPageToken() == "" {
			break
		}
	}
	for id, request := range expected {
		if !seen[id] {
			c.say("order %s is lost: it was the answer to request %s, and does not exist", id, request)
		}
	}
	return nil
}

// sum tells what is wrong with what an order costs, "" if nothing is.
func sum(o *orderv1.Order) string {
	total := &typev1.Money{CurrencyCode: o.GetTotal().GetCurrencyCode()}
	for _, l := range o.GetLines() {
		amount, price := l.GetAmount(), l.GetUnitPrice()
		if amount.GetMinorUnits() != price.GetMinorUnits()*int64(l.GetQuantity()) || amount.GetCurrencyCode() != price.GetCurrencyCode() ||
			amount.GetCurrencyCode() != total.GetCurrencyCode() {
			return fmt.Sprintf("has a line of %d %s for %d at %d %s", amount.GetMinorUnits(), amount.GetCurrencyCode(), l.GetQuantity(),
				price.GetMinorUnits(), price.GetCurrencyCode())
		}
		total.MinorUnits += amount.GetMinorUnits()
	}
	if total.GetMinorUnits() != o.GetTotal().GetMinorUnits() || len(o.GetLines()) == 0 {
		return fmt.Sprintf("costs %d, its %d lines add up to %d", o.GetTotal().GetMinorUnits(), len(o.GetLines()), total.GetMinorUnits())
	}
	return ""
}

// waybill reads the waybill of an order and looks at all that it says.
func (c *checker) waybill(ctx context.Context, o found) error {
	var bill *orderv1.Waybill
	err := patiently(ctx, func() (err error) {
		bill, err = o.customer.client.GetWaybill(o.customer.customer.Context(ctx), &orderv1.GetWaybillRequest{OrderId: o.id.String()})
		return err
	})
	if errs.KindOf(err) == errs.NotFound {
		c.say("order %s is listed, and has no waybill", o.id)
		return nil
	}
	if err != nil {
		return unlessOver(err)
	}
	entries := bill.GetEntries()
	// The order may have gone on since it was listed, but not back.
	wrong := invariant.Waybill(o.id.String(), bill.GetStatus(), max(o.version, int64(len(entries))), entries)
	for _, v := range wrong {
		c.say("%s", v)
	}
	if len(wrong) == 0 && o.version > 0 {
		if then := entries[o.version-1].GetToStatus(); then != o.status {
			c.say("order %s was %s, its waybill says %s of that moment", o.id, order.StatusName(o.status), order.StatusName(then))
		}
	}
	if len(entries) > 0 {
		c.origin(o, entries[0].GetCauseId())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.result.Orders++
	if !order.SagaOver(bill.GetStatus()) {
		c.result.Open++
	}
	return nil
}

// origin looks at the request that an order came from: the one it was the answer
// to, or one of those that were never answered, each of which made one at most.
func (c *checker) origin(o found, cause string) {
	request, err := uuid.Parse(cause)
	switch {
	case err != nil:
		c.say("order %s came from request %q, which nobody made", o.id, cause)
	case o.request != uuid.Nil && o.request != request:
		c.say("order %s was the answer to request %s, and came from %s", o.id, o.request, request)
	case o.request == uuid.Nil && !slices.Contains(o.customer.ledger.unsure, request):
		c.say("order %s exists, and nobody was told: it came from request %s, which made another or none", o.id, request)
	case o.request == uuid.Nil:
		c.mu.Lock()
		first, twice := c.causes[request]
		c.causes[request] = o.id
		c.mu.Unlock()
		if twice {
			c.say("order %s is a double: it came from request %s, as order %s did", o.id, request, first)
		}
	}
}

// errTimeOver says that the limit of a check was reached while all went well.
var errTimeOver = errors.New("no time is left")

// unlessOver gives nil for errTimeOver: then it was as much as could be read.
func unlessOver(err error) error {
	if errors.Is(err, errTimeOver) {
		return nil
	}
	return err
}

// patiently calls fn until it succeeds, fails for good or ctx ends. Its error is an
// *errs.Error, or errTimeOver.
func patiently(ctx context.Context, fn func() error) error {
	var last error
	for {
		if ctx.Err() == nil {
			err := rpc.FromStatus(fn())
			if err == nil || errs.Permanent(err) {
				return err
			}
			if ctx.Err() == nil {
				last = err
			}
		}
		if !pause(ctx, checkAgain) {
			if last == nil {
				return errTimeOver
			}
			return last
		}
	}
}
