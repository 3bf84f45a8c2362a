package rpc

import (
	"context"
	"errors"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/watch"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	"github.com/waybill-dev/waybill/services/order"
)

// resumeToken is the sequence of the last entry that was sent. It is opaque to
// callers.
func resumeToken(sequence int64) string { return strconv.FormatInt(sequence, 10) }

// parseToken reads a token; present is the order's version.
func parseToken(token string, present int64) (int64, error) {
	n, err := strconv.ParseInt(token, 10, 64)
	if err != nil || n < 0 || n > present || resumeToken(n) != token {
		problem := "is not one that was given for this order; begin again without it"
		return 0, errs.E(errs.Invalid, "RESUME_TOKEN", "resume_token: %s", problem).WithFields(errs.Field{Path: "resume_token", Problem: problem})
	}
	return n, nil
}

// WatchOrder implements orderv1.OrderServiceServer. The stream sends the order as
// it is, unless it is resumed, and then every entry of its waybill, in order and
// each once. It ends after the entry that brought the order to a final status.
func (s *Server) WatchOrder(req *orderv1.WatchOrderRequest, stream grpc.ServerStreamingServer[orderv1.WatchOrderResponse]) error {
	ctx, id := stream.Context(), req.GetOrderId()
	sub := s.hub.Subscribe(64)
	defer sub.Close()
	sub.Add(id) // before the order is read, so that nothing falls between
	o, err := s.store.Get(ctx, auth.Owner(ctx), id)
	if err != nil {
		return err
	}
	w := &watched{known: o, sent: o.GetVersion(), send: func(o *orderv1.Order, e *orderv1.WaybillEntry, at int64) error {
		return stream.Send(&orderv1.WatchOrderResponse{Order: o, Entry: e, ResumeToken: resumeToken(at)})
	}}
	if token := req.GetResumeToken(); token == "" {
		if err := w.send(o, nil, w.sent); err != nil {
			return err
		}
	} else {
		if w.sent, err = parseToken(token, o.GetVersion()); err != nil {
			return err
		}
		if err := s.catchUp(ctx, w, o); err != nil {
			return err
		}
	}
	for !order.Terminal(w.known.GetStatus()) {
		c, err := next(ctx, sub, s.recheck)
		switch {
		case errors.Is(err, errQuiet):
			err = s.refresh(ctx, w)
		case err != nil:
			return err
		default:
			err = s.follow(ctx, w, c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// watched is one order on a stream.
type watched struct {
	known *orderv1.Order // as it was last seen; its lines, total and address stay
	sent  int64          // sequence of the last entry that was sent
	only  bool           // the end of the saga is all that is wanted
	send  func(o *orderv1.Order, e *orderv1.WaybillEntry, at int64) error
}

// fill adds to an order from the hub what never changes.
func (w *watched) fill(o *orderv1.Order) *orderv1.Order {
	o.UserId, o.Lines, o.Total, o.ShipTo, o.CreateTime = w.known.GetUserId(), w.known.GetLines(), w.known.GetTotal(), w.known.GetShipTo(), w.known.GetCreateTime()
	return o
}

// follow sends what a change brings: its entry if that is the next one, else
// whatever the database has.
func (s *Server) follow(ctx context.Context, w *watched, c watch.Change) error {
	if !c.Lagged {
		if c.Version <= w.sent {
			return nil
		}
		var r orderv1.WatchOrdersResponse
		if c.Version == w.sent+1 && proto.Unmarshal(c.Data, &r) == nil && r.GetEntry().GetSequence() == c.Version {
			w.known, w.sent = w.fill(r.GetOrder()), c.Version
			return w.send(w.known, r.GetEntry(), w.sent)
		}
	}
	return s.refresh(ctx, w)
}

// refresh sends the entries that the database has beyond what was sent.
func (s *Server) refresh(ctx context.Context, w *watched) error {
	o, err := s.store.Get(ctx, "", w.known.GetOrderId()) // whose it is was asked before
	if err != nil {
		return err
	}
	return s.catchUp(ctx, w, o)
}

// catchUp sends the entries between what was sent and o. Entries that came after o
// was read are left for the next time, so that each message's order is not older
// than its entry.
func (s *Server) catchUp(ctx context.Context, w *watched, o *orderv1.Order) error {
	w.known = o
	if w.sent >= o.GetVersion() {
		return nil
	}
	entries, err := s.store.Entries(ctx, o.GetOrderId(), w.sent)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.GetSequence() > o.GetVersion() {
			break
		}
		w.sent = e.GetSequence()
		if err := w.send(o, e, w.sent); err != nil {
			return err
		}
	}
	return nil
}

var errQuiet = errors.New("nothing came for a while")

// next waits for a change, and gives errQuiet if none comes for so long.
func next(ctx context.Context, sub *watch.Subscription, wait time.Duration) (watch.Change, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, wait, errQuiet)
	defer cancel()
	return sub.Next(ctx)
}
