package inventoryd_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
)

type stockStream = grpc.ServerStreamingClient[inventoryv1.WatchStockResponse]

// watch opens a stream; cut ends it.
func (w *world) watch(token string, ids ...string) (stream stockStream, cut context.CancelFunc) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.customer)
	w.t.Cleanup(cancel)
	stream, err := w.WatchStock(ctx, &inventoryv1.WatchStockRequest{ProductIds: ids, ResumeToken: token})
	if err != nil {
		w.t.Fatal(err)
	}
	return stream, cancel
}

// see waits for the next message.
func (w *world) see(s stockStream) *inventoryv1.WatchStockResponse {
	w.t.Helper()
	m, err := s.Recv()
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

func (w *world) adjust(id string, delta int64) {
	w.t.Helper()
	if _, err := w.AdjustStock(w.staff, &inventoryv1.AdjustStockRequest{RequestId: newID(), ProductId: id, Delta: delta, Reason: "test"}); err != nil {
		w.t.Fatal(err)
	}
}

func TestAWatchBeginsWithWhatIsAndGoesOnWithWhatChanges(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		a, b, other := w.create().GetProductId(), w.create().GetProductId(), w.create().GetProductId()
		s, _ := w.watch("", a, b)
		first := map[string]int64{}
		for range 2 {
			m := w.see(s)
			first[m.GetProductId()] = m.GetAvailable()
		}
		if first[a] != 10 || first[b] != 10 {
			t.Errorf("begins with %v", first)
		}
		w.adjust(other, 1)
		w.adjust(b, 5)
		if m := w.see(s); m.GetProductId() != b || m.GetAvailable() != 15 || m.GetVersion() != 2 || m.GetResumeToken() == "" {
			t.Errorf("got %v", m)
		}
	})
}

func TestAWatchThatIsCutGoesOnWithoutAGap(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		a, b, quiet := w.create().GetProductId(), w.create().GetProductId(), w.create().GetProductId()
		if _, err := w.db.Exec(t.Context(), `UPDATE stock SET updated_at = ? WHERE id = ?`, time.Now().Add(-time.Hour), quiet); err != nil {
			t.Fatal(err)
		}
		s, cut := w.watch("", a, b, quiet)
		w.see(s)
		w.see(s)
		w.see(s)
		w.adjust(a, 1)
		token := w.see(s).GetResumeToken()
		cut()
		w.adjust(b, 2)
		w.adjust(b, 3)
		s, _ = w.watch(token, quiet, b, a)
		last := map[string]int64{}
		for last[b] != 15 {
			m := w.see(s)
			if m.GetProductId() == quiet {
				t.Error("what has not changed for an hour was sent again")
			}
			if m.GetVersion() < last[m.GetProductId()+" version"] {
				t.Error("a version went back")
			}
			last[m.GetProductId()], last[m.GetProductId()+" version"] = m.GetAvailable(), m.GetVersion()
		}
		w.adjust(a, 1)
		for last[a] != 12 {
			m := w.see(s)
			last[m.GetProductId()] = m.GetAvailable()
		}
	})
}

func TestManyChangesEndWithTheLast(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		a := w.create().GetProductId()
		s, _ := w.watch("", a)
		w.see(s)
		for range 50 {
			w.adjust(a, 1)
		}
		version := int64(0)
		for {
			m := w.see(s)
			if m.GetVersion() <= version {
				t.Fatalf("version %d after %d", m.GetVersion(), version)
			}
			if version = m.GetVersion(); m.GetAvailable() == 60 {
				return
			}
		}
	})
}

func TestAWatchOfWhatIsNotThereIsRefused(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		a, b := w.create().GetProductId(), w.create().GetProductId()
		s, _ := w.watch("", a)
		token := w.see(s).GetResumeToken()
		for _, c := range []struct {
			name, token string
			ids         []string
			code        codes.Code
		}{
			{"an unknown product", "", []string{a, newID()}, codes.NotFound},
			{"no products", "", nil, codes.InvalidArgument},
			{"a token of other products", token, []string{a, b}, codes.InvalidArgument},
			{"a token that is none", "AAAA", []string{a}, codes.InvalidArgument},
		} {
			s, _ := w.watch(c.token, c.ids...)
			_, err := s.Recv()
			w.refused(c.name, err, c.code, "")
		}
		anon, err := w.WatchStock(w.anybody, &inventoryv1.WatchStockRequest{ProductIds: []string{a}})
		if err == nil {
			_, err = anon.Recv()
		}
		w.refused("anonymous", err, codes.Unauthenticated, "")
	})
}
