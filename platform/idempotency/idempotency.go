// Package idempotency carries the caller's idempotency key from the edge, which
// demands it, to the transaction, which stores the answer under it.
package idempotency

import "context"

// A Key names one write of one caller. Requests with the same Caller, Method and
// Key are the same write; their Fingerprint must agree, and all get one answer.
type Key struct {
	Caller      string // "user:<id>", "service:<name>" or "anonymous"
	Method      string // full gRPC method, "/waybill.order.v1.OrderService/CreateOrder"
	Value       string // what the caller sent: request_id or the Idempotency-Key header
	Fingerprint []byte // hash of the request without its request_id
}

// ID gives the one string under which the answer is stored.
func (k Key) ID() string { return k.Caller + "|" + k.Method + "|" + k.Value }

type contextKey struct{}

// NewContext gives a context that carries k.
func NewContext(ctx context.Context, k Key) context.Context {
	return context.WithValue(ctx, contextKey{}, k)
}

// FromContext gives the key of the write in progress, and whether there is one.
func FromContext(ctx context.Context) (Key, bool) {
	k, ok := ctx.Value(contextKey{}).(Key)
	return k, ok
}
