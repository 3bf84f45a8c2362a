package load

import (
	"testing"
	"time"
)

func TestThroughputCountsWhatHappensInTheMeasuredTimeAndLatencyWhatBeginsInIt(t *testing.T) {
	r := newRecorder()
	at := time.Unix(1000, 0)
	r.created(false, time.Second, at.Add(-2*time.Second)) // long before
	r.completed(false, time.Second, at.Add(-time.Second))
	r.openAt(at)
	r.created(false, 5*time.Second, at.Add(time.Second)) // placed before, taken on and over within
	r.completed(false, 5*time.Second, at.Add(2*time.Second))
	r.created(true, time.Millisecond, at.Add(3*time.Second)) // within
	r.completed(true, 2*time.Millisecond, at.Add(4*time.Second))
	r.created(true, time.Millisecond, at.Add(5*time.Second)) // placed within, over after
	r.closeAt(at.Add(10 * time.Second))
	r.completed(true, 8*time.Millisecond, at.Add(11*time.Second))

	rep := r.report(Config{InFlight: 1}, &usage{})
	if rep.Seconds != 10 || rep.Created != 3 || rep.Completed != 2 || rep.CreatedPerSecond != .3 || rep.CompletedPerSecond != .2 {
		t.Errorf("in %v s %d were created, %d completed: %v and %v per second", rep.Seconds, rep.Created, rep.Completed, rep.CreatedPerSecond, rep.CompletedPerSecond)
	}
	if rep.CreateMS.Max > 2 || rep.CompleteMS.Max < 8 || rep.CompleteMS.Max > 9 {
		t.Errorf("the longest took %v ms to create and %v to complete", rep.CreateMS.Max, rep.CompleteMS.Max)
	}
}
