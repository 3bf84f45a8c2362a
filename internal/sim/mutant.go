package sim

// A Mutant is a protection that is switched off, in the simulated world and never
// in a service: by what the world puts around it.
type Mutant string

// The mutants.
const (
	NoMutant        Mutant = ""
	InboxOff        Mutant = "inbox off"                               // every delivery counts as new
	InboxBySeq      Mutant = "inbox keyed by stream sequence"          // which is used again when the broker lost its tail
	MarkBeforeAck   Mutant = "outbox marked before the ack"            // a publish that is lost is not repeated
	AckBeforeCommit Mutant = "ack before commit"                       // a crash between the two loses the event
	NoOrder         Mutant = "no order per aggregate"                  // events of one aggregate are published side by side
	TwoRelays       Mutant = "two relays with SKIP LOCKED"             // each publishes what the other has not taken
	MemoryFirst     Mutant = "events overtake those of other replicas" // as the relay did before a world told
	AuditOff        Mutant = "outbox audit off"                        // a stream that lost its tail is not refilled
	RandomKey       Mutant = "provider key random per attempt"         // a repeated call is another operation
	NoRetry         Mutant = "calls not repeated"                      // a call of a process that died is forgotten
	LocksOff        Mutant = "row locks off"                           // stock is read, then written by two
	VersionsOff     Mutant = "remembered versions not checked"         // a step goes by what another replica has changed
	ExpiryOff       Mutant = "hold expiry not checked"                 // what was told to be free is sold
	RefundCapOff    Mutant = "refund cap off"                          // refunds given before are not counted
	NoSweeper       Mutant = "no deadline sweeper"                     // nobody looks at the clock
	DropStale       Mutant = "stale versions dropped"                  // an event that was overtaken is thrown away
	NoTombstones    Mutant = "barrier off"                             // an undoing that comes first leaves no trace
	CaptureEarly    Mutant = "capture before the stock is sold"        // the goods held are taken for sold
	NoIdempotency   Mutant = "idempotency keys off"                    // a repeated request is a new one
	MsgIDOff        Mutant = "broker de-duplication off"               // a control: the inbox covers it
)

// Mutants lists the mutants that must be noticed.
func Mutants() []Mutant {
	return []Mutant{
		InboxOff, InboxBySeq, MarkBeforeAck, AckBeforeCommit, NoOrder, TwoRelays, MemoryFirst, AuditOff, RandomKey, NoRetry, LocksOff, VersionsOff,
		ExpiryOff, RefundCapOff, NoSweeper, DropStale, NoTombstones, CaptureEarly, NoIdempotency,
	}
}
