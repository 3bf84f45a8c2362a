package saga

import (
	"context"
	"time"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/watch"
	userv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/user/v1"
	"github.com/waybill-dev/waybill/services/shipping"
	"github.com/waybill-dev/waybill/services/shipping/internal/store"
)

// eraseUsers registers what happens when a user is erased. The event only leaves
// a note that it has to be done; sweeps do it, and for parcels that are on their
// way once they have ended. Events of this service hold nothing personal, so the
// rows are all there is to clean.
func (h *machine) eraseUsers(m *react.Machine) {
	react.On(m,
		func(_ *react.View, e *userv1.UserErased) []react.Ref { return ofUser(nil, e.GetUserId()) },
		func(v *react.View, e *userv1.UserErased) error {
			if e.GetUserId() == "" {
				return errs.E(errs.Invalid, "MALFORMED_EVENT", "a user without an id was erased")
			}
			store.Erasures.Put(v, e.GetUserId(), store.Erasure{ErasedAt: v.Now(), Open: true})
			return nil
		})
	react.Every(m, react.Sweep{
		Name:  "erase addresses",
		Every: h.cfg.SweepEvery,
		Due: func(ctx context.Context, _ time.Time, limit int) ([]string, error) {
			return h.cfg.Store.ToErase(ctx, limit)
		},
		Needs: func(_ *react.View, id string) []react.Ref { return []react.Ref{store.Shipments.Ref(id)} },
		Step:  h.erase,
	})
	react.Every(m, react.Sweep{
		Name:  "close erasures",
		Every: h.cfg.SweepEvery,
		Due: func(ctx context.Context, now time.Time, limit int) ([]string, error) {
			return h.cfg.Store.Erased(ctx, now.Add(-eraseGrace), limit)
		},
		Needs: ofUser,
		Step: func(v *react.View, id string) error {
			if e, ok := store.Erasures.Get(v, id); ok && e.Open {
				e.Open = false
				store.Erasures.Put(v, id, e)
			}
			return nil
		},
	})
}

func ofUser(_ *react.View, id string) []react.Ref { return []react.Ref{store.Erasures.Ref(id)} }

// erase takes the address out of one shipment.
func (h *machine) erase(v *react.View, orderID string) error {
	s, ok := store.Shipments.Get(v, orderID)
	if !ok || s.ShipTo == nil || !s.State.Final() {
		return nil
	}
	s.ShipTo, s.Updated = nil, v.Now()
	h.put(v, s)
	return nil
}

// put keeps a shipment and tells those who watch it.
func (h *machine) put(v *react.View, s shipping.Shipment) {
	store.Put(v, s)
	if s.ID == "" {
		return // nobody knows of it
	}
	version := store.Shipments.Version(v, s.OrderID)
	v.Committed(func() { h.cfg.Changed(watch.Change{Key: s.ID, Version: version}) })
}
