package react

import (
	"context"

	"github.com/waybill-dev/waybill/platform/outbox"
	"github.com/waybill-dev/waybill/platform/sqldb"
)

// Redacting registers the call that takes what the contract marks as sensitive
// out of the events about an aggregate, see outbox.Redact, and gives what a step
// asks for it with. The call is repeated until all of them are published.
func Redacting(m *Machine, db *sqldb.DB) func(v *View, ref Ref) {
	type nothing struct{}
	const kind = "redact events"
	OnEffect(m, kind,
		func(ctx context.Context, call Call, _ nothing) (nothing, error) {
			return nothing{}, outbox.Redact(ctx, db, call.AggregateID)
		},
		func(*View, nothing) []Ref { return nil },
		func(*View, nothing, nothing) error { return nil })
	return func(v *View, ref Ref) { v.Effect(kind, ref, nothing{}) }
}
