package bus

import (
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/waybill-dev/waybill/platform/errs"
)

const notifyPrefix = "waybill.notify."

// Notify tells everyone who listens to topic, in every process. It is best
// effort: nothing is stored, and whoever is away does not hear it (see OnGap).
func (b *Bus) Notify(topic string, data []byte) error {
	subject := notifyPrefix + topic
	if !validSubject(subject) {
		return errs.E(errs.Invalid, ReasonInvalid, "topic %q is not a subject", topic)
	}
	return classified(b.conn.Publish(subject, data))
}

// Listen calls fn with what is sent to topic, in order, on one goroutine, also
// with what this process sends. fn owns data. After stop returns fn is not
// called for anything new, though a call may still be running.
func (b *Bus) Listen(topic string, fn func(data []byte)) (stop func(), err error) {
	subject := notifyPrefix + topic
	if !validSubject(subject) {
		return nil, errs.E(errs.Invalid, ReasonInvalid, "topic %q is not a subject", topic)
	}
	sub, err := b.conn.Subscribe(subject, func(m *nats.Msg) { fn(m.Data) })
	if err != nil {
		return nil, classified(err)
	}
	if b.conn.IsConnected() {
		// The broker knows of us when it has answered; if it does not, it hears of
		// us when we connect again.
		_ = b.conn.FlushTimeout(apiTimeout)
	}
	b.listen(topic, 1)
	return sync.OnceFunc(func() {
		b.listen(topic, -1)
		_ = sub.Unsubscribe() // fails only if the connection is gone, and the subscription with it
	}), nil
}

func (b *Bus) listen(topic string, d int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.listeners[topic] += d; b.listeners[topic] == 0 {
		delete(b.listeners, topic)
	}
}

// Alone tells whether certainly at most one Listen hears topic: the broker is
// embedded, so no other process does, and this one listens once at most.
func (b *Bus) Alone(topic string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Embedded() && b.listeners[topic] <= 1
}
