package react

import (
	"strconv"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/outbox"
)

// MaxHops is how long a chain of causes may grow before it is taken for a loop.
// The longest chain of a saga and its undoing has eleven links.
const MaxHops = 16

// maxID is how long the id of an event may be; ours are UUIDs.
const maxID = 128

// A Message is a domain event as it reached this service.
type Message struct {
	ID          string // UUID of the event
	Type        string // full protobuf name
	AggregateID string // whom it is about, in the producer's terms
	Version     int64  // gapless per aggregate and producer
	Cause       string // id of the message that led to it, or ""
	Hops        int64  // length of the chain of causes
	Time        time.Time
	Event       proto.Message
	Trace       trace.SpanContext
}

// Producer gives the service that emitted the message.
func (m *Message) Producer() string { return outbox.Producer(m.Type) }

// decode reads a delivery. Its errors are Invalid: the same bytes will never
// become a message.
func decode(d *bus.Delivery) (*Message, error) {
	h := d.Header
	m := &Message{
		ID:          h(outbox.HeaderID),
		Type:        h(outbox.HeaderType),
		AggregateID: h(outbox.HeaderSubject),
		Cause:       h(outbox.HeaderCause),
		Trace:       parseTrace(h(outbox.HeaderTrace)),
	}
	if m.ID == "" {
		m.ID = d.ID
	}
	unnamed := m.ID == ""
	if unnamed || storable(m.ID) != m.ID || len(m.ID) > maxID {
		unnamed, m.ID = true, nameless(d)
	}
	if unnamed || m.Type == "" {
		return m, errs.E(errs.Invalid, "MALFORMED_EVENT", "the message lacks %s or %s, or they cannot be read", outbox.HeaderID, outbox.HeaderType)
	}
	if !outbox.OnSubject(d.Subject, m.Type, m.AggregateID) {
		return m, errs.E(errs.Invalid, "MALFORMED_EVENT", "a %s came on subject %s, want %s", m.Type, d.Subject, outbox.Subject(m.Type, m.AggregateID))
	}
	if want := outbox.StreamOf(m.Type); want != d.Stream {
		return m, errs.E(errs.Invalid, "FORGED_EVENT", "a %s came from stream %s, want %s", m.Type, d.Stream, want)
	}
	m.Version, _ = strconv.ParseInt(h(outbox.HeaderVersion), 10, 64)
	m.Hops, _ = strconv.ParseInt(h(outbox.HeaderHops), 10, 64)
	m.Time, _ = time.Parse(time.RFC3339Nano, h(outbox.HeaderTime))
	if m.Hops > MaxHops {
		return m, errs.E(errs.FailedPrecondition, "TOO_MANY_HOPS", "%d events led to this one, which looks like a loop", m.Hops)
	}
	typ, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(m.Type))
	if err != nil {
		return m, errs.Wrap(err, errs.Invalid, "UNKNOWN_EVENT", "this build does not know %s", m.Type)
	}
	m.Event = typ.New().Interface()
	if err := proto.Unmarshal(d.Data, m.Event); err != nil {
		return m, errs.Wrap(err, errs.Invalid, "MALFORMED_EVENT", "the payload is no %s", m.Type)
	}
	return m, nil
}

// parseTrace reads a W3C traceparent of version 00; others and malformed ones
// give no trace. It is asked for every message, so it allocates nothing.
func parseTrace(traceparent string) trace.SpanContext {
	const form = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
	if len(traceparent) != len(form) || traceparent[:3] != form[:3] || traceparent[35] != '-' || traceparent[52] != '-' {
		return trace.SpanContext{}
	}
	var cfg trace.SpanContextConfig
	var flags [1]byte
	if !unhex(cfg.TraceID[:], traceparent[3:35]) || !unhex(cfg.SpanID[:], traceparent[36:52]) || !unhex(flags[:], traceparent[53:]) {
		return trace.SpanContext{}
	}
	cfg.TraceFlags, cfg.Remote = trace.TraceFlags(flags[0])&trace.FlagsSampled, true
	return trace.NewSpanContext(cfg)
}

// unhex reads lower-case hex digits, as the specification wants them.
func unhex(dst []byte, src string) bool {
	for i := range dst {
		hi, lo := nibble(src[2*i]), nibble(src[2*i+1])
		if hi > 15 || lo > 15 {
			return false
		}
		dst[i] = hi<<4 | lo
	}
	return true
}

func nibble(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}

func formatTrace(sc trace.SpanContext) string {
	if !sc.IsValid() {
		return ""
	}
	return "00-" + sc.TraceID().String() + "-" + sc.SpanID().String() + "-" + sc.TraceFlags().String()
}
