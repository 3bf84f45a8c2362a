package watch

import (
	"context"
	"testing"
	"time"
)

func TestAFeedPassesOnTheLastVersionOfEachKey(t *testing.T) {
	var got []Change
	f := NewFeed(func(c []Change) { got = append(got, c...) })
	for v := range int64(10) {
		f.Changed(Change{Key: "a", Version: v + 1})
	}
	f.Changed(Change{Key: "a", Version: 4}) // an older one, late
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

func TestAFeedThatNeverBeganCanBeStopped(t *testing.T) {
	if err := NewFeed(nil).Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAStartedFeedPassesOnWithoutBeingStopped(t *testing.T) {
	got := make(chan []Change)
	f := NewFeed(func(c []Change) { got <- c })
	f.Start()
	for v := range int64(3) {
		f.Changed(Change{Key: "a", Version: v + 1})
		for c := range got {
			if c[0].Version == v+1 {
				break
			}
		}
	}
	if err := f.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}
