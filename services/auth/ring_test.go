package auth_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/waybill-dev/waybill/services/auth"
)

// rotation is what the default configuration gives, in smaller numbers.
var rotation = auth.Rotation{Every: 10 * time.Hour, Ahead: time.Hour, Keep: 12 * time.Minute}

// A year of keys, looked at minute by minute: whoever signs, everybody has known
// the key for long, and whatever was signed is still verified while it is good.
func TestRotationRefusesNoTokenEver(t *testing.T) {
	const ttl = 10 * time.Minute
	var ring auth.Ring
	n := 0
	fresh := func() auth.Key { n++; return auth.Key{ID: fmt.Sprint(n)} }
	signedWith := map[string]time.Time{} // last time each key signed
	knownSince := map[string]time.Time{}
	for now := noon; now.Before(noon.Add(60 * 24 * time.Hour)); now = now.Add(time.Minute) {
		ring, _ = ring.Turn(now, rotation, fresh)
		published := map[string]bool{}
		for _, k := range ring.Keys {
			published[k.ID] = true
			if _, ok := knownSince[k.ID]; !ok {
				knownSince[k.ID] = now
			}
		}
		k, ok := ring.Signing(now)
		if !ok || !published[k.ID] {
			t.Fatalf("%s: nothing signs", now)
		}
		if k.ID != "1" && now.Sub(knownSince[k.ID]) < rotation.Ahead {
			t.Fatalf("%s: key %s signs after being known for %s", now, k.ID, now.Sub(knownSince[k.ID]))
		}
		signedWith[k.ID] = now
		for id, last := range signedWith {
			if now.Sub(last) <= ttl+time.Minute && !published[id] {
				t.Fatalf("%s: key %s is gone, its tokens are not", now, id)
			}
		}
		if len(ring.Keys) > 3 {
			t.Fatalf("%s: %d keys are published", now, len(ring.Keys))
		}
	}
	if want := 60 * 24 / 10; n < want || n > want+2 {
		t.Errorf("%d keys in all, want about %d", n, want)
	}
}

func TestARingLeftAloneForLongComesBackInOrder(t *testing.T) {
	n := 0
	fresh := func() auth.Key { n++; return auth.Key{ID: fmt.Sprint(n)} }
	ring, changed := auth.Ring{}.Turn(noon, rotation, fresh)
	if k, ok := ring.Signing(noon); !changed || !ok || k.ID != "1" {
		t.Fatalf("the first key does not sign at once: %+v", ring)
	}
	if _, changed := ring.Turn(noon.Add(time.Minute), rotation, fresh); changed {
		t.Error("turned without need")
	}
	late := noon.Add(1000 * time.Hour)
	ring, _ = ring.Turn(late, rotation, fresh)
	if k, _ := ring.Signing(late); k.ID != "1" {
		t.Errorf("key %s signs before anybody knows it", k.ID)
	}
	if k, _ := ring.Signing(late.Add(rotation.Ahead)); k.ID != "2" {
		t.Errorf("key %s signs when the new one is known", k.ID)
	}
	if _, ok := (auth.Ring{}).Signing(noon); ok {
		t.Error("an empty ring signs")
	}
}
