// Package sim runs the services in a world of its own: their real machines, steps,
// batches and stores on databases in memory, with a clock that jumps, a broker that
// duplicates, reorders, delays, drops and forgets, processes that crash, pause and
// disagree about the time, a payment provider and a carrier one cannot rely on, and
// customers who change their minds. Everything follows from one number, the seed:
// the same seed is the same run.
//
// A world first runs with faults, and what must always be true is looked at again
// and again. Then all is healed, and every order has to end and to agree with the
// money, the stock and the parcel.
package sim

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/waybill-dev/waybill/platform/errs"
)

// A Fault is a kind of thing that goes wrong.
type Fault string

// The faults.
const (
	Duplicate Fault = "duplicate" // the broker delivers again what was acknowledged
	Delay     Fault = "delay"     // messages take long, and overtake each other
	AckLoss   Fault = "ack-loss"  // acknowledgements get lost, of deliveries and of publishing
	Drop      Fault = "drop"      // what is published does not reach the broker, or long after its sender gave up
	Tail      Fault = "tail"      // the broker loses the end of a stream, and numbers go back
	Crash     Fault = "crash"     // processes die before, within and after commits
	Pause     Fault = "pause"     // processes stand still and go on as if nothing had been
	Race      Fault = "race"      // transactions of two processes meet
	Database  Fault = "database"  // serialization failures, databases that are away, commits of unknown outcome
	Provider  Fault = "provider"  // declines, does and does not say so, does not know, is slow, tells twice
	Carrier   Fault = "carrier"   // refuses, loses, is too late, forgets scans
	Skew      Fault = "skew"      // clocks differ by minutes
	Customer  Fault = "customer"  // orders twice, cancels, returns, wants money back
)

// Faults lists all faults.
func Faults() []Fault {
	return []Fault{Duplicate, Delay, AckLoss, Drop, Tail, Crash, Pause, Race, Database, Provider, Carrier, Skew, Customer}
}

// ParseFaults reads a list of faults separated by commas, where "all" and "none"
// are lists, too, and "swarm" is a random choice for each seed, which is nil here.
func ParseFaults(s string) ([]Fault, error) {
	switch s {
	case "", "swarm":
		return nil, nil
	case "none":
		return []Fault{}, nil
	case "all":
		return Faults(), nil
	}
	var list []Fault
	for name := range strings.SplitSeq(s, ",") {
		f := Fault(strings.TrimSpace(name))
		if !slices.Contains(Faults(), f) {
			var names []string
			for _, f := range Faults() {
				names = append(names, string(f))
			}
			return nil, errs.E(errs.Invalid, "UNKNOWN_FAULT", "there is no fault %q; there are swarm (a choice by the seed), all, none and %s", f, strings.Join(names, ", "))
		}
		list = append(list, f)
	}
	return list, nil
}

// Options say what kind of world it is. The zero value of each is a good choice.
type Options struct {
	Orders int     // how many are placed; 0 means 40
	Faults []Fault // what goes wrong; nil lets the seed choose, in one of four worlds nothing

	// Mutant switches off one protection. It is for tests of the simulator: a world
	// with a mutant must not pass.
	Mutant Mutant

	// Keep has the world written down step by step; Result.Story gives it.
	Keep bool
}

// rates are how often things go wrong, per occasion.
type rates struct {
	duplicate, delay, lostAck, lostPubAck, drop, late float64
	tail, crash, pause, race                          float64
	serialization, away, ambiguous                    float64
	skew                                              time.Duration
	provider, carrier, customer                       bool
}

func newRates(faults []Fault) rates {
	var r rates
	for _, f := range faults {
		switch f {
		case Duplicate:
			r.duplicate = .1
		case Delay:
			r.delay = .3
		case AckLoss:
			r.lostAck, r.lostPubAck = .1, .05
		case Drop:
			r.drop, r.late = .05, .02
		case Tail:
			r.tail = 1
		case Crash:
			r.crash = .008
		case Pause:
			r.pause = .01
		case Race:
			r.race = .2
		case Database:
			r.serialization, r.away, r.ambiguous = .03, .01, .01
		case Provider:
			r.provider = true
		case Carrier:
			r.carrier = true
		case Skew:
			r.skew = 4 * time.Minute
		case Customer:
			r.customer = true
		}
	}
	return r
}

// choose gives the faults of a seed: none in one of four worlds, else each with
// even chances.
func choose(r *rand.Rand) []Fault {
	if r.IntN(4) == 0 {
		return []Fault{}
	}
	list := []Fault{}
	for _, f := range Faults() {
		if r.IntN(2) == 0 {
			list = append(list, f)
		}
	}
	return list
}

func (o Options) withDefaults() Options {
	o.Orders = cmp.Or(o.Orders, 40)
	return o
}
