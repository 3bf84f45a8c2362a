package simulator

import (
	"context"
	"regexp"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	"github.com/waybill-dev/waybill/services/shipping"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func at(d time.Duration) *Carrier {
	return &Carrier{Step: time.Hour, Now: func() time.Time { return noon.Add(d) }}
}

func kinds(t *testing.T, c *Carrier, r shipping.Request) (all []shippingv1.ScanKind) {
	t.Helper()
	scans, err := c.Track(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, s := range scans {
		if ids[s.GetScanId()] {
			t.Errorf("two scans %s", s.GetScanId())
		}
		ids[s.GetScanId()] = true
		if s.GetScanTime().AsTime().After(c.Now()) {
			t.Errorf("%s is seen in the future", s.GetScanId())
		}
		all = append(all, s.GetKind())
	}
	return all
}

func TestTheSameKeyIsTheSameBooking(t *testing.T) {
	c := at(0)
	book := func(key, region string) shipping.Answer {
		a, err := c.Book(context.Background(), key, shipping.Request{RegionCode: region}, nil)
		if err != nil || a.Check() != nil {
			t.Fatal(err, a.Check())
		}
		return a
	}
	a, again, other := book("k1", "DE"), book("k1", "DE"), book("k2", "DE")
	if a != again || a.Tracking == other.Tracking || !a.Accepted || !regexp.MustCompile(`^WB[0-9A-F]{16}$`).MatchString(a.Tracking) {
		t.Errorf("%+v, %+v, %+v", a, again, other)
	}
	if refused := book("k3", "AQ"); refused.Accepted || refused.Reason != "address_not_served" {
		t.Errorf("to Antarctica: %+v", refused)
	}
}

func TestAParcelMovesWithTime(t *testing.T) {
	r := shipping.Request{Tracking: "T", BookedAt: noon}
	const picked, transit, delivered = shippingv1.ScanKind_SCAN_KIND_PICKED_UP, shippingv1.ScanKind_SCAN_KIND_IN_TRANSIT, shippingv1.ScanKind_SCAN_KIND_DELIVERED
	for hours, want := range map[int][]shippingv1.ScanKind{0: nil, 1: {picked}, 2: {picked, transit}, 3: {picked, transit, delivered}, 100: {picked, transit, delivered}} {
		if diff := cmp.Diff(want, kinds(t, at(time.Duration(hours)*time.Hour), r), protocmp.Transform()); diff != "" {
			t.Errorf("after %d hours:\n%s", hours, diff)
		}
	}
	r.ReturnAt = noon.Add(10 * time.Hour)
	if got := kinds(t, at(12*time.Hour), r); len(got) != 5 || got[4] != shippingv1.ScanKind_SCAN_KIND_RETURNED {
		t.Errorf("on its way back: %v", got)
	}
	if got := kinds(t, &Carrier{Now: at(99 * time.Hour).Now}, r); got != nil {
		t.Errorf("a carrier without steps scans %v", got)
	}
}

func TestAParcelIsCalledOffUntilItIsFetched(t *testing.T) {
	for d, want := range map[time.Duration]bool{0: true, time.Hour - 1: true, time.Hour: false} {
		if got, err := at(d).CallOff(t.Context(), "k", shipping.Request{BookedAt: noon}); err != nil || got != want {
			t.Errorf("after %s: %v, %v", d, got, err)
		}
	}
	if got, err := (&Carrier{Now: at(99 * time.Hour).Now}).CallOff(t.Context(), "k", shipping.Request{BookedAt: noon}); err != nil || !got {
		t.Errorf("a carrier without steps: %v, %v", got, err)
	}
}
