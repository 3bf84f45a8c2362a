package rpc

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/watch"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	"github.com/waybill-dev/waybill/services/shipping/internal/store"
)

// TrackShipment sends the shipment as it is, then each scan and each change, until
// the parcel has reached a final status. A resumed stream sends what came since.
func (s *Server) TrackShipment(req *shippingv1.TrackShipmentRequest, out grpc.ServerStreamingServer[shippingv1.TrackShipmentResponse]) error {
	ctx := out.Context()
	// Subscribe before reading, so that nothing falls between.
	sub := s.Hub.Subscribe(1)
	defer sub.Close()
	sub.Add(req.GetShipmentId())
	got, err := s.Store.Get(ctx, req.GetShipmentId(), auth.Owner(ctx))
	if err != nil {
		return err
	}
	var seen position
	if token := req.GetResumeToken(); token == "" {
		seen = positionOf(got)
		if err := out.Send(&shippingv1.TrackShipmentResponse{Shipment: present(got), ResumeToken: seen.String()}); err != nil {
			return err
		}
	} else {
		if seen, err = parsePosition(token, positionOf(got)); err != nil {
			return err
		}
		if seen, err = send(out, got, seen); err != nil {
			return err
		}
	}
	for !got.State.Final() {
		c, err := next(ctx, sub, s.Recheck)
		switch {
		case errors.Is(err, errQuiet):
		case err != nil:
			return err
		case !c.Lagged && c.Version <= seen.version:
			continue
		}
		if got, err = s.Store.Get(ctx, req.GetShipmentId(), ""); err != nil { // whose it is was asked before
			return err
		}
		if seen, err = send(out, got, seen); err != nil {
			return err
		}
	}
	return nil
}

// position is how much of a shipment's history somebody has seen.
type position struct {
	version int64
	scans   int64
}

func positionOf(s store.Stored) position { return position{s.Version, s.Scanned} }

// send sends what is new in a shipment since seen, and gives what is seen then.
func send(out grpc.ServerStreamingServer[shippingv1.TrackShipmentResponse], got store.Stored, seen position) (position, error) {
	now := positionOf(got)
	if now.version <= seen.version {
		return seen, nil
	}
	whole := present(got)
	first := got.Scanned - int64(len(got.Scans)) // number of scans that are not kept any more
	fresh := got.Scans[max(0, seen.scans-first):]
	if len(fresh) == 0 {
		return now, out.Send(&shippingv1.TrackShipmentResponse{Shipment: whole, ResumeToken: now.String()})
	}
	for i, scan := range fresh {
		at := position{seen.version, now.scans - int64(len(fresh)-i-1)}
		if i == len(fresh)-1 {
			at = now // only the last one has caught up with the version
		}
		if err := out.Send(&shippingv1.TrackShipmentResponse{Shipment: whole, Scan: scan, ResumeToken: at.String()}); err != nil {
			return seen, err
		}
	}
	return now, nil
}

// String gives the position as a resume token. It is opaque to callers.
func (p position) String() string { return fmt.Sprintf("%d.%d", p.version, p.scans) }

// parsePosition reads a resume token. One that is ahead of the present belongs to
// another shipment, or to nobody.
func parsePosition(token string, present position) (position, error) {
	v, n, _ := strings.Cut(token, ".")
	version, err1 := strconv.ParseInt(v, 10, 64)
	scans, err2 := strconv.ParseInt(n, 10, 64)
	p := position{version, scans}
	if err1 != nil || err2 != nil || version < 0 || scans < 0 || version > present.version || scans > present.scans || p.String() != token {
		const problem = "is not one that was given for this shipment; begin again without it"
		return p, errs.E(errs.Invalid, "RESUME_TOKEN", "resume_token: %s", problem).WithFields(errs.Field{Path: "resume_token", Problem: problem})
	}
	return p, nil
}

var errQuiet = errors.New("nothing came for a while")

// next waits for a change, and gives errQuiet if none comes for so long.
func next(ctx context.Context, sub *watch.Subscription, wait time.Duration) (watch.Change, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, wait, errQuiet)
	defer cancel()
	return sub.Next(ctx)
}
