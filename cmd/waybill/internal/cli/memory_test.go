package cli

import (
	"errors"
	"testing"
)

func TestTheHeapIsLimitedWhereNoContainerLimitsIt(t *testing.T) {
	for text, want := range map[string]int64{"": ownLimit, "max\n": ownLimit, "1073741824\n": 751619274, "107374182400\n": 75161927680} {
		got := heapLimit(func(string) ([]byte, error) {
			if text == "" {
				return nil, errors.New("no such file")
			}
			return []byte(text), nil
		})
		if got != want {
			t.Errorf("%q gives %d, want %d", text, got, want)
		}
	}
}

func TestAContainersLimitLeavesRoomForWhatIsNotHeap(t *testing.T) {
	for text, want := range map[string]int64{
		"1073741824\n":          751619274,
		"max\n":                 0,
		"9223372036854771712\n": 0, // no limit, in the words of cgroup 1
		"0\n":                   0,
		"":                      0,
	} {
		if got, ok := memoryLimit(text); got != want || ok != (want > 0) {
			t.Errorf("%q gives %d, %v", text, got, ok)
		}
	}
}
