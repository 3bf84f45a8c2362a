package rpc

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"time"

	"google.golang.org/grpc"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/watch"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	"github.com/waybill-dev/waybill/services/inventory/internal/saga"
	"github.com/waybill-dev/waybill/services/inventory/internal/store"
)

// resumeMargin is how much of the past a resumed stream looks at again. Rows are
// stamped when their batch begins, by the clock of the replica that does it: what
// was stored after the last message that was sent may be stamped earlier by as
// much as a batch takes and clocks differ. What is sent once more does no harm.
const resumeMargin = time.Minute

// watchBuffer is how many changes wait for a slow reader; beyond it only the
// latest state of each product does.
const watchBuffer = 256

// WatchStock sends the stock of products as it is now and after every change,
// until the caller goes. With a resume token it begins with what has changed
// since.
func (s *Server) WatchStock(req *inventoryv1.WatchStockRequest, out grpc.ServerStreamingServer[inventoryv1.WatchStockResponse]) error {
	ctx := out.Context()
	since, err := openToken(req.GetResumeToken(), req.GetProductIds())
	if err != nil {
		return err
	}
	// First listen, then read: what changes in between is not missed.
	sub := s.hub.Subscribe(watchBuffer)
	defer sub.Close()
	for _, id := range req.GetProductIds() {
		sub.Add(id)
	}
	w := &watcher{out: out, ids: req.GetProductIds(), sent: make(map[string]int64, len(req.GetProductIds())), seen: since}
	items, err := s.store.Items(ctx, w.ids...)
	if err != nil {
		return err
	}
	for _, id := range w.ids {
		if items[id] == nil {
			return saga.NotFound(id)
		}
	}
	for _, i := range inOrderOfChange(items) {
		if !since.IsZero() && i.Stock.UpdatedAt.Before(since.Add(-resumeMargin)) {
			w.sent[i.ProductID] = i.StockVersion
			continue
		}
		if err := w.send(i.ProductID, i.StockVersion, i.Stock.Available(), i.Stock.UpdatedAt); err != nil {
			return err
		}
	}
	for {
		c, err := sub.Next(ctx)
		if err != nil {
			return err
		}
		if err := s.pass(ctx, w, c); err != nil {
			return err
		}
	}
}

// pass sends a change, reading again what was left out.
func (s *Server) pass(ctx context.Context, w *watcher, c watch.Change) error {
	if !c.Lagged && c.Data != nil {
		available, updated, err := saga.DecodeChange(c.Data)
		if err != nil {
			return err
		}
		return w.send(c.Key, c.Version, available, updated)
	}
	ids := w.ids
	if c.Key != "" {
		ids = []string{c.Key}
	}
	items, err := s.store.Items(ctx, ids...)
	if err != nil {
		return err
	}
	for _, i := range inOrderOfChange(items) {
		if err := w.send(i.ProductID, i.StockVersion, i.Stock.Available(), i.Stock.UpdatedAt); err != nil {
			return err
		}
	}
	return nil
}

// inOrderOfChange sorts items so that what changed last comes last, which keeps
// the resume tokens of the messages right.
func inOrderOfChange(items map[string]*store.Item) []*store.Item {
	sorted := make([]*store.Item, 0, len(items))
	for _, i := range items {
		sorted = append(sorted, i)
	}
	slices.SortFunc(sorted, func(a, b *store.Item) int { return a.Stock.UpdatedAt.Compare(b.Stock.UpdatedAt) })
	return sorted
}

// watcher is one stream.
type watcher struct {
	out  grpc.ServerStreamingServer[inventoryv1.WatchStockResponse]
	ids  []string
	sent map[string]int64 // version by product
	seen time.Time        // the latest change that was sent
}

func (w *watcher) send(id string, version, available int64, updated time.Time) error {
	if version <= w.sent[id] {
		return nil // read before it was announced
	}
	w.sent[id] = version
	if updated.After(w.seen) {
		w.seen = updated
	}
	return w.out.Send(&inventoryv1.WatchStockResponse{
		ProductId: id, Available: available, Version: version, ResumeToken: sealToken(w.seen, w.ids),
	})
}

// A resume token is the time of the latest change that was sent, and a sum of the
// products watched: resuming with others would miss their state.
const tokenSize = 16

func sealToken(seen time.Time, ids []string) string {
	b := make([]byte, 0, tokenSize)
	b = binary.BigEndian.AppendUint64(b, uint64(seen.UnixMicro()))
	return base64.RawURLEncoding.EncodeToString(append(b, sum(ids)...))
}

// openToken gives the time in a token, zero if there is none.
func openToken(token string, ids []string) (time.Time, error) {
	if token == "" {
		return time.Time{}, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) != tokenSize || string(b[8:]) != string(sum(ids)) {
		return time.Time{}, errs.E(errs.Invalid, "INVALID_RESUME_TOKEN", "the resume_token is not one of a stream of these products; begin without it").
			WithFields(errs.Field{Path: "resume_token", Problem: "does not fit these product_ids"})
	}
	return time.UnixMicro(int64(binary.BigEndian.Uint64(b))).UTC(), nil
}

func sum(ids []string) []byte {
	h := sha256.New()
	for _, id := range slices.Sorted(slices.Values(ids)) {
		h.Write([]byte(id))
		h.Write([]byte{0})
	}
	return h.Sum(nil)[:tokenSize-8]
}
