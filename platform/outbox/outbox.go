// Package outbox publishes the events that a service committed together with its
// state. The database is the truth and the broker a carrier: a row is pending
// until the broker acknowledged it, and rows are kept for days after that. The
// stream is audited: what it has lost of them is published again.
package outbox

import (
	"hash/fnv"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/sqldb"
)

// Retention is how long a published row is kept for refilling a stream.
const Retention = 7 * 24 * time.Hour

// MaxPayload is the largest event in bytes that may enter an outbox. It is far
// below what streams accept, so no row can block those behind it.
const MaxPayload = 192 << 10

// An Event is one row of the outbox: a domain event and the CloudEvents
// attributes it travels with.
type Event struct {
	Seq         int64  // position in this outbox, given by the database
	ID          string // UUIDv7; also the broker's de-duplication id
	Type        string // full protobuf name, "waybill.order.v1.OrderPlaced"
	AggregateID string
	Version     int64  // gapless per aggregate and producer, from 1
	Cause       string // id of the message that led to this event, or ""
	Hops        int64  // length of the chain of causes
	Traceparent string // W3C trace context of the step, or ""
	Payload     []byte // the protobuf message
	Time        time.Time
}

// Table is the outbox as it is written. A trigger notes each new row as pending.
var Table = &sqldb.Table{
	Name: "outbox",
	Key:  []string{"event_id"},
	Columns: []sqldb.Column{
		{Name: "event_id", Type: sqldb.Text},
		{Name: "type", Type: sqldb.Text},
		{Name: "aggregate_id", Type: sqldb.Text},
		{Name: "version", Type: sqldb.Int},
		{Name: "cause", Type: sqldb.Text},
		{Name: "hops", Type: sqldb.Int},
		{Name: "traceparent", Type: sqldb.Text},
		{Name: "payload", Type: sqldb.Bytes},
		{Name: "created_at", Type: sqldb.Time},
	},
}

// Append queues the insertion of events into b. While b is sent each event gets
// its Seq; the events' order is the order of publication.
func Append(b *sqldb.Batch, events []*Event) {
	if len(events) == 0 {
		return
	}
	rows := make([][]any, len(events))
	for i, e := range events {
		rows[i] = []any{e.ID, e.Type, e.AggregateID, e.Version, e.Cause, e.Hops, e.Traceparent, e.Payload, e.Time}
	}
	next := 0
	b.InsertReturning(Table, rows, []string{"seq"}, func(s sqldb.Scanner) error {
		next++
		return s.Scan(&events[next-1].Seq)
	})
}

// Partitions is over how many subjects the events of one type are spread. A
// broker keeps every subject it has seen in memory, so there is none per
// aggregate; one per partition still lets consumers divide the work by aggregate.
const Partitions = 256

// Subject gives the subject on which events of the full protobuf name typ about
// one aggregate travel: waybill.<service>.<event>.v<N>.<partition>. With the
// aggregate id "*" it is the filter for all aggregates.
func Subject(typ, aggregateID string) string {
	if aggregateID == "*" {
		return namesOf(typ).prefix + "*"
	}
	return namesOf(typ).prefix + partitions[partition(aggregateID)]
}

// OnSubject tells whether subject is the one of typ and the aggregate, as Subject
// gives it.
func OnSubject(subject, typ, aggregateID string) bool {
	p, ok := strings.CutPrefix(subject, namesOf(typ).prefix)
	return ok && p == partitions[partition(aggregateID)]
}

func partition(aggregateID string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(aggregateID)) // never fails
	return h.Sum32() % Partitions
}

var partitions = func() (names [Partitions]string) {
	for i := range names {
		names[i] = strconv.Itoa(i)
	}
	return names
}()

// names is what follows from the full protobuf name of an event.
type names struct {
	prefix   string // of its subjects
	producer string
	stream   string
}

// known keeps the names of types that have been asked for; ours are few and short,
// but what strangers publish may be called anything.
var known sync.Map

const (
	maxKnown = 1024
	maxName  = 128 // bytes
)

var manyKnown atomic.Int64

func namesOf(typ string) names {
	if n, ok := known.Load(typ); ok {
		return n.(names)
	}
	n := names{prefix: "waybill.invalid." + typ + "."}
	if parts := strings.Split(typ, "."); len(parts) >= 4 {
		parts = parts[len(parts)-4:]
		n = names{prefix: parts[0] + "." + parts[1] + "." + snake(parts[3]) + "." + parts[2] + ".", producer: parts[1]}
	}
	n.stream = Stream(n.producer)
	if len(typ) <= maxName && manyKnown.Add(1) <= maxKnown {
		known.Store(typ, n)
	}
	return n
}

// Producer gives the service that owns the event type: the package part after
// "waybill".
func Producer(typ string) string { return namesOf(typ).producer }

// StreamOf gives the name of the stream that holds events of a type.
func StreamOf(typ string) string { return namesOf(typ).stream }

// Stream gives the name of the stream that holds a service's events.
func Stream(service string) string { return "WAYBILL_" + strings.ToUpper(service) }

// The attributes of an event in the message's headers: CloudEvents 1.0, NATS
// binding in binary mode, and W3C trace context.
const (
	HeaderID          = "ce-id"
	HeaderType        = "ce-type"
	HeaderSource      = "ce-source"
	HeaderSubject     = "ce-subject"
	HeaderTime        = "ce-time"
	HeaderSpec        = "ce-specversion"
	HeaderContentType = "content-type"
	HeaderVersion     = "ce-aggregateversion"
	HeaderCause       = "ce-causationid"
	HeaderHops        = "ce-hops"
	HeaderSequence    = "ce-sequence" // place in the producer's outbox
	HeaderTrace       = "traceparent"
)

const contentType = "application/protobuf"

// Message gives e in the form it has on the bus when it travels alone.
func (e *Event) Message() bus.Msg {
	return bus.Msg{ID: e.ID, Subject: Subject(e.Type, e.AggregateID), Header: headers{e}.All(), Data: e.Payload}
}

// headers are those of an event that travels alone.
type headers struct{ e *Event }

var headerKeys = []string{
	HeaderSpec, HeaderID, HeaderType, HeaderSource, HeaderSubject, HeaderTime, HeaderContentType, HeaderVersion, HeaderHops, HeaderSequence,
	HeaderCause, HeaderTrace,
}

// Get implements bus.Headers.
func (h headers) Get(key string) string {
	e := h.e
	switch key {
	case HeaderSpec:
		return "1.0"
	case HeaderID:
		return e.ID
	case HeaderType:
		return e.Type
	case HeaderSource:
		return "/waybill/" + Producer(e.Type)
	case HeaderSubject:
		return e.AggregateID
	case HeaderTime:
		return e.Time.UTC().Format(time.RFC3339Nano)
	case HeaderContentType:
		return contentType
	case HeaderVersion:
		return strconv.FormatInt(e.Version, 10)
	case HeaderHops:
		return strconv.FormatInt(e.Hops, 10)
	case HeaderSequence:
		return strconv.FormatInt(e.Seq, 10)
	case HeaderCause:
		return e.Cause
	case HeaderTrace:
		return e.Traceparent
	}
	return ""
}

// All implements bus.Headers.
func (h headers) All() map[string]string {
	all := make(map[string]string, len(headerKeys))
	for _, k := range headerKeys {
		if v := h.Get(k); v != "" || k != HeaderCause && k != HeaderTrace {
			all[k] = v
		}
	}
	return all
}

func snake(name string) string {
	var b strings.Builder
	for i, r := range name {
		if r >= 'A' && r <= 'Z' {
			if i > 0 {
				b.WriteByte('_')
			}
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}
