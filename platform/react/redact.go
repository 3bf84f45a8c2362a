package react

import (
	"context"
	"time"

	"github.com/waybill-dev/waybill/platform/outbox"
	"github.com/waybill-dev/waybill/platform/sqldb"
)

const (
	redactEffect = "redact events"
	publication  = time.Second // by then events are published as a rule, and the first try succeeds
)

// Redacting registers the call that Redact asks for, with the database that holds
// the events.
func Redacting(m *Machine, db *sqldb.DB) {
	type nothing struct{}
	OnEffect(m, redactEffect,
		func(ctx context.Context, call Call, _ nothing) (nothing, error) {
			return nothing{}, outbox.Redact(ctx, db, call.AggregateID)
		},
		func(*View, nothing) []Ref { return nil },
		func(*View, nothing, nothing) error { return nil })
}

// Redact takes what the contract marks as sensitive out of the events about an
// aggregate, after the commit and as soon as all of them are published; see
// outbox.Redact. The machine must have Redacting.
func Redact(v *View, ref Ref) { v.Effect(redactEffect, ref, struct{}{}, After(publication)) }
