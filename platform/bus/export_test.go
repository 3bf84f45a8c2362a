package bus

import "github.com/nats-io/nats.go/jetstream"

// JetStream lets tests do to the broker what operators and accidents do.
func (b *Bus) JetStream() jetstream.JetStream { return b.js }
