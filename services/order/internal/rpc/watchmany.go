package rpc

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/rpc"
	"github.com/waybill-dev/waybill/platform/watch"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	"github.com/waybill-dev/waybill/services/order"
)

// backlog is how many changes a stream may be behind before it is told to look
// into the database instead.
const backlog = 4096

// gather is how many wishes or changes are taken together.
const gather = 256

// WatchOrders implements orderv1.OrderServiceServer. Once the caller has said that
// nothing more will be added, the stream ends when nothing is watched any more.
func (s *Server) WatchOrders(stream grpc.BidiStreamingServer[orderv1.WatchOrdersRequest, orderv1.WatchOrdersResponse]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	m := &many{
		s: s, ctx: ctx, owner: auth.Owner(ctx), stream: stream,
		sub: s.hub.Subscribe(backlog), orders: map[string]*watched{},
	}
	defer m.sub.Close()

	wishes := make(chan *orderv1.WatchOrdersRequest, gather)
	wishesEnd := make(chan error, 1)
	go func() {
		defer close(wishes)
		for {
			req, err := stream.Recv()
			if err != nil {
				wishesEnd <- err
				return
			}
			select {
			case wishes <- req:
			case <-ctx.Done():
				wishesEnd <- ctx.Err()
				return
			}
		}
	}()
	changes := make(chan watch.Change, gather)
	changesEnd := make(chan error, 1)
	go func() {
		for {
			c, err := m.sub.Next(ctx)
			if err != nil {
				changesEnd <- err
				return
			}
			select {
			case changes <- c:
			case <-ctx.Done():
				return
			}
		}
	}()
	return m.run(wishes, wishesEnd, changes, changesEnd)
}

// many is one stream of WatchOrders. One goroutine owns it.
type many struct {
	s      *Server
	ctx    context.Context //nolint:containedctx // of the stream, which is what this is
	owner  string
	stream grpc.ServerStreamingServer[orderv1.WatchOrdersResponse]
	sub    *watch.Subscription
	orders map[string]*watched
}

func (m *many) run(wishes <-chan *orderv1.WatchOrdersRequest, wishesEnd <-chan error, changes <-chan watch.Change, changesEnd <-chan error) error {
	recheck := time.NewTicker(m.s.recheck)
	defer recheck.Stop()
	for wishes != nil || len(m.orders) > 0 {
		var err error
		select {
		case req, ok := <-wishes:
			if !ok {
				if err := <-wishesEnd; !errors.Is(err, io.EOF) {
					return err
				}
				wishes = nil
				continue
			}
			err = m.grant(req, wishes)
		case c := <-changes:
			err = m.takeIn(c, changes)
		case err = <-changesEnd:
		case <-recheck.C:
			err = m.recheck()
		case <-m.ctx.Done():
			err = context.Cause(m.ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// grant does a wish and those that wait behind it, reading what is added at once.
func (m *many) grant(req *orderv1.WatchOrdersRequest, more <-chan *orderv1.WatchOrdersRequest) error {
	added := map[string]bool{} // id -> only the end of the saga
	var ids []string           // of added, in the order of the wishes
	for n := 1; req != nil; n++ {
		for _, id := range req.GetAdd().GetOrderIds() {
			if _, twice := added[id]; !twice && m.orders[id] == nil {
				added[id] = req.GetAdd().GetOnlySagaOver()
				ids = append(ids, id)
			}
		}
		for _, id := range req.GetDrop().GetOrderIds() {
			delete(added, id)
			m.drop(id)
		}
		req = nil
		if n < gather {
			select {
			case req = <-more: // nil once it is closed
			default:
			}
		}
	}
	return m.add(ids, added)
}

func (m *many) add(ids []string, only map[string]bool) error {
	wanted := make([]string, 0, len(only))
	seen := make(map[string]bool, len(only))
	for _, id := range ids {
		if _, ok := only[id]; !ok || seen[id] {
			continue // dropped again, or named twice
		}
		seen[id] = true
		if len(m.orders)+len(wanted) >= m.s.maxWatched {
			if err := m.refuse(id, errs.E(errs.ResourceExhausted, "TOO_MANY_ORDERS",
				"one stream follows %d orders at most; drop some or open another", m.s.maxWatched)); err != nil {
				return err
			}
			continue
		}
		m.sub.Add(id) // before it is read, so that nothing falls between
		wanted = append(wanted, id)
	}
	found, err := m.s.store.GetMany(m.ctx, m.owner, wanted)
	if err != nil {
		return err
	}
	byID := make(map[string]*orderv1.Order, len(found))
	for _, o := range found {
		byID[o.GetOrderId()] = o
	}
	for _, id := range wanted {
		o := byID[id]
		if o == nil {
			m.sub.Drop(id)
			if err := m.refuse(id, order.NotFound(id)); err != nil {
				return err
			}
			continue
		}
		if err := m.begin(o, only[id]); err != nil {
			return err
		}
	}
	return nil
}

// begin sends how an order is and follows it from there, if there is more to come.
func (m *many) begin(o *orderv1.Order, only bool) error {
	id := o.GetOrderId()
	w := &watched{known: o, sent: o.GetVersion(), only: only, send: func(o *orderv1.Order, e *orderv1.WaybillEntry, at int64) error {
		return m.stream.Send(&orderv1.WatchOrdersResponse{OrderId: id, Order: o, Entry: e, ResumeToken: resumeToken(at)})
	}}
	m.orders[id] = w
	if !only || o.GetSagaOver() {
		if err := w.send(o, nil, w.sent); err != nil {
			return err
		}
	}
	m.settle(id, w)
	return nil
}

// settle drops an order of which nothing more is wanted.
func (m *many) settle(id string, w *watched) {
	if order.Terminal(w.known.GetStatus()) || (w.only && w.known.GetSagaOver()) {
		m.drop(id)
	}
}

func (m *many) drop(id string) {
	m.sub.Drop(id)
	delete(m.orders, id)
}

func (m *many) refuse(id string, err error) error {
	return m.stream.Send(&orderv1.WatchOrdersResponse{OrderId: id, Error: rpc.Status(err, "").Proto()})
}

// takeIn handles a change and those that wait behind it; what was left out is read
// at once.
func (m *many) takeIn(c watch.Change, more <-chan watch.Change) error {
	var behind []string
	for n := 1; ; n++ {
		w := m.orders[c.Key]
		switch {
		case c.Key == "":
			return m.recheck()
		case w == nil: // dropped meanwhile
		case c.Lagged:
			behind = append(behind, c.Key)
		case w.only:
			if err := m.overByNow(w, c); err != nil {
				return err
			}
		default:
			if err := m.s.follow(m.ctx, w, c); err != nil {
				return err
			}
			m.settle(c.Key, w)
		}
		if n == gather {
			break
		}
		select {
		case c = <-more:
			continue
		default:
		}
		break
	}
	return m.reread(behind)
}

// overByNow sends the order if the change ended its saga. Only then is anything
// of it looked at, and the database never.
func (m *many) overByNow(w *watched, c watch.Change) error {
	if c.Version <= w.sent {
		return nil
	}
	var r orderv1.WatchOrdersResponse
	if err := proto.Unmarshal(c.Data, &r); err != nil {
		return m.reread([]string{c.Key})
	}
	w.known, w.sent = w.fill(r.GetOrder()), c.Version
	return m.sendIfOver(c.Key, w)
}

func (m *many) sendIfOver(id string, w *watched) error {
	if !w.known.GetSagaOver() {
		return nil
	}
	m.drop(id)
	return w.send(w.known, nil, w.sent)
}

// reread brings orders up to what the database has.
func (m *many) reread(ids []string) error {
	found, err := m.s.store.GetMany(m.ctx, "", ids) // whose they are was asked before
	if err != nil {
		return err
	}
	for _, o := range found {
		id := o.GetOrderId()
		w := m.orders[id]
		if w == nil || o.GetVersion() <= w.sent {
			continue
		}
		if w.only {
			w.known, w.sent = o, o.GetVersion()
			err = m.sendIfOver(id, w)
		} else if err = m.s.catchUp(m.ctx, w, o); err == nil {
			m.settle(id, w)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// recheck rereads what the database knows to be further on.
func (m *many) recheck() error {
	ids := make([]string, 0, len(m.orders))
	for id := range m.orders {
		ids = append(ids, id)
	}
	versions, err := m.s.store.Versions(m.ctx, ids)
	if err != nil {
		return err
	}
	var behind []string
	for id, v := range versions {
		if w := m.orders[id]; w != nil && v > w.sent {
			behind = append(behind, id)
		}
	}
	return m.reread(behind)
}
