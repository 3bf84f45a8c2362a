package outbox

import "context"

// Lead takes the lease if it can and tells whether it has it.
func (r *Relay) Lead(ctx context.Context) bool {
	r.renew(ctx)
	return r.leads()
}

// Unmarked puts the relay into the state in which a mark that failed leaves it:
// the row is published, and the table does not know yet.
func (r *Relay) Unmarked(seq int64) {
	r.taken[seq] = true
	r.marked = append(r.marked, mark{row: seq})
}
