package saga

import (
	"context"
	"testing"
	"time"

	"github.com/waybill-dev/waybill/platform/watch"
	"github.com/waybill-dev/waybill/services/inventory"
)

func TestAFeedPassesOnTheLastStateOfEachProduct(t *testing.T) {
	var got []watch.Change
	f := NewFeed(func(c []watch.Change) { got = append(got, c...) })
	for v := range int64(10) {
		f.Changed(watch.Change{Key: "a", Version: v + 1})
	}
	f.Changed(watch.Change{Key: "a", Version: 4}) // an older one, late
	f.Start()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range 2 {
		if err := f.Stop(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if len(got) != 1 || got[0].Version != 10 {
		t.Errorf("passed on %v", got)
	}
}

func TestHintsForgetTheOldest(t *testing.T) {
	h := newHints(2)
	for _, o := range []string{"a", "b", "b", "c"} {
		h.put(o, []inventory.Line{{ProductID: "of " + o}})
	}
	if h.get("a") != nil || len(h.get("b")) != 1 || h.get("c")[0] != "of c" {
		t.Errorf("remembers %v", h.by)
	}
}

func TestAChangeThatIsNoneIsRefused(t *testing.T) {
	for _, data := range [][]byte{nil, {0x80}, {2}, {2, 0x80}} {
		if _, _, err := DecodeChange(data); err == nil {
			t.Errorf("%v was read", data)
		}
	}
}
