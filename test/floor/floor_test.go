package main

import (
	"testing"
	"time"
)

func TestEverySagaGoesThroughEachStepExactlyOnce(t *testing.T) {
	t.Parallel()
	rep, err := run(t.Context(), config{inFlight: 20, batch: 128, duration: time.Second, sync: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err) // the run itself counts
	}
	if rep.Sagas == 0 {
		t.Error("no saga completed")
	}
}
