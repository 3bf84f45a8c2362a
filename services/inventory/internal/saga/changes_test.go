package saga

import (
	"testing"

	"github.com/waybill-dev/waybill/services/inventory"
)

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
