package outbox

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/errs"
	eventv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/event/v1"
)

// Events of one type that are published at once share a message, for a message
// costs the broker, its client and both ends much more than an event does.
const (
	batchEvents = 128       // in a message at most
	batchBytes  = 128 << 10 // of payloads at most, unless one event has more; streams take 256 KiB
	batchToken  = "batch"   // in the place of the partition
)

// batchType is the ce-type of a message with several events.
var batchType = string((&eventv1.EventBatch{}).ProtoReflect().Descriptor().FullName())

// A Message is what the broker gets for some events.
type Message struct {
	bus.Msg

	Events []*Event
}

// Messages gives events that are published at once in the form they have on the
// bus: those of one type share messages, as an EventBatch, and one that is alone of
// its type travels alone, as Event.Message. The order of events of one type stays.
func Messages(events []*Event) []Message {
	var msgs []Message
	for _, group := range grouped(events) {
		if len(group) > 1 {
			if m, err := batch(group); err == nil {
				msgs = append(msgs, Message{m, group})
				continue
			}
		}
		for i, e := range group {
			msgs = append(msgs, Message{e.Message(), group[i : i+1]})
		}
	}
	return msgs
}

// grouped puts events of one type together, as they may share a message. The order
// of events of one type stays.
func grouped(events []*Event) (groups [][]*Event) {
	open := map[string]int{} // type -> its last group
	size := map[string]int{}
	for _, e := range events {
		i, ok := open[e.Type]
		if !ok || len(groups[i]) == batchEvents || size[e.Type]+len(e.Payload) > batchBytes {
			i = len(groups)
			open[e.Type], size[e.Type] = i, 0
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], e)
		size[e.Type] += len(e.Payload)
	}
	return groups
}

// batch gives events of one type as an EventBatch in one message. It has the same id
// as another only if it has the same events, so that the broker takes none for
// repeated that is not. The error is that a string is no UTF-8.
func batch(events []*Event) (bus.Msg, error) {
	b := &eventv1.EventBatch{Type: events[0].Type, Events: make([]*eventv1.Event, len(events))}
	ids := sha256.New()
	for i, e := range events {
		b.Events[i] = &eventv1.Event{
			Id: e.ID, Subject: e.AggregateID, Time: timestamppb.New(e.Time), AggregateVersion: e.Version, CausationId: e.Cause, Hops: e.Hops,
			Sequence: e.Seq, Traceparent: e.Traceparent, Data: e.Payload,
		}
		ids.Write([]byte(e.ID + "\n"))
	}
	data, err := proto.Marshal(b)
	if err != nil {
		return bus.Msg{}, err
	}
	id := hex.EncodeToString(ids.Sum(nil)[:16])
	return bus.Msg{ID: id, Subject: namesOf(b.GetType()).prefix + batchToken, Data: data, Header: map[string]string{
		HeaderSpec:        "1.0",
		HeaderID:          id,
		HeaderType:        batchType,
		HeaderSource:      "/waybill/" + Producer(b.GetType()),
		HeaderTime:        events[0].Time.UTC().Format(time.RFC3339Nano),
		HeaderContentType: contentType,
	}}, nil
}

// unpack gives the events of a batch that came on subject. The error is Invalid: the
// same bytes will never become events.
func unpack(subject string, data []byte) ([]*Event, error) {
	var b eventv1.EventBatch
	if err := proto.Unmarshal(data, &b); err != nil {
		return nil, errs.Wrap(err, errs.Invalid, "MALFORMED_EVENT", "the payload is no %s", batchType)
	}
	if want := namesOf(b.GetType()).prefix + batchToken; subject != want {
		return nil, errs.E(errs.Invalid, "MALFORMED_EVENT", "a batch of %s came on subject %s, want %s", b.GetType(), subject, want)
	}
	if len(b.GetEvents()) == 0 {
		return nil, errs.E(errs.Invalid, "MALFORMED_EVENT", "a batch without events")
	}
	events := make([]*Event, len(b.GetEvents()))
	for i, e := range b.GetEvents() {
		events[i] = &Event{
			Seq: e.GetSequence(), ID: e.GetId(), Type: b.GetType(), AggregateID: e.GetSubject(), Version: e.GetAggregateVersion(), Cause: e.GetCausationId(),
			Hops: e.GetHops(), Traceparent: e.GetTraceparent(), Payload: e.GetData(), Time: e.GetTime().AsTime(),
		}
	}
	return events, nil
}

// Open gives a delivery for each event of d, which is d itself if it is no batch.
// When all of them have ended d does: it comes again, with all of them, if one of
// them is to come again, after the longest of their delays, and is done with
// otherwise. The error is Invalid if d is a batch that cannot be read; then d is
// still to be ended.
func Open(d *bus.Delivery) ([]*bus.Delivery, error) {
	if d.Header(HeaderType) != batchType {
		return []*bus.Delivery{d}, nil
	}
	events, err := unpack(d.Subject, d.Data)
	if err != nil {
		return nil, err
	}
	w := &whole{d: d, left: len(events)}
	parts := make([]*bus.Delivery, len(events))
	for i, e := range events {
		m := bus.Msg{ID: e.ID, Subject: Subject(e.Type, e.AggregateID), Data: e.Payload}
		parts[i] = bus.NewPart(d, m, headers{e}, w.ended)
	}
	return parts, nil
}

// whole waits for the parts of a delivery to end.
type whole struct {
	d *bus.Delivery

	mu    sync.Mutex
	left  int
	again bool
	delay time.Duration
}

func (w *whole) ended(how bus.End, delay time.Duration) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if how == bus.Nakked {
		w.again, w.delay = true, max(w.delay, delay)
	}
	if w.left--; w.left > 0 {
		return nil
	}
	if w.again {
		return w.d.Nak(w.delay)
	}
	return w.d.Ack()
}

// eventsOf gives what a message of a stream was made from; ok is false if it cannot
// be read. Of one that does not tell its row, of an older build, nothing is given.
func eventsOf(m *bus.Msg) (events []*Event, ok bool) {
	if m == nil {
		return nil, false
	}
	if m.Header[HeaderType] == batchType {
		events, err := unpack(m.Subject, m.Data)
		return events, err == nil
	}
	row, err := strconv.ParseInt(m.Header[HeaderSequence], 10, 64)
	if err != nil || row == 0 {
		return nil, true
	}
	return []*Event{{Seq: row, ID: m.ID, Payload: m.Data}}, true
}
