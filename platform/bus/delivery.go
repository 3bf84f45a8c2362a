package bus

import (
	"maps"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/waybill-dev/waybill/platform/errs"
)

// A Delivery is one attempt to hand a message to a consumer. Exactly one of
// Ack, Nak and Term should end it; if none does within the consumer's AckWait,
// the message comes again. Its methods may be called from any goroutine.
//
// Msg.Header is nil: read headers with Header, which costs no copy.
type Delivery struct {
	Msg
	Stream     string
	Seq        uint64    // in the stream; unlike the ID it may be used again if the broker lost its tail
	Deliveries uint64    // 1 for the first attempt
	Pending    uint64    // messages behind this one when it was sent
	Time       time.Time // when the stream stored it

	header  nats.Header
	told    Headers // instead of header
	reply   string
	conn    *nats.Conn
	answer  func(End, time.Duration) error // instead of conn
	settled atomic.Bool
}

// An End is how a Delivery ends.
type End uint8

// The ends.
const (
	Acked  End = iota + 1 // the message is done with
	Nakked                // it is to come again, after a while
	Termed                // it can never be handled
)

// Headers are the headers of a message, for those to whom a map of them is too dear.
type Headers interface {
	Get(key string) string // "" if there is none
	All() map[string]string
}

// NewPart makes a delivery of what came in a larger one, as NewDelivery does, with
// headers other than m's.
func NewPart(of *Delivery, m Msg, h Headers, ended func(how End, delay time.Duration) error) *Delivery {
	return &Delivery{Msg: m, Stream: of.Stream, Seq: of.Seq, Deliveries: of.Deliveries, Pending: of.Pending, Time: of.Time, told: h, answer: ended}
}

// NewDelivery makes a delivery that did not come over a broker, for those who
// play one. The function given hears how it ended; the delay is that of Nak.
func NewDelivery(m Msg, stream string, seq, deliveries uint64, at time.Time, ended func(how End, delay time.Duration) error) *Delivery {
	return &Delivery{Msg: m, Stream: stream, Seq: seq, Deliveries: deliveries, Time: at, answer: ended}
}

// Header gives the value of a header, or "" if there is none. Keys are
// case-sensitive.
func (d *Delivery) Header(key string) string {
	if v := d.header[key]; len(v) > 0 {
		return v[0]
	}
	if d.told != nil {
		return d.told.Get(key)
	}
	return d.Msg.Header[key]
}

// Headers gives a copy of all headers, of each the first value.
func (d *Delivery) Headers() map[string]string {
	if d.told != nil {
		return d.told.All()
	}
	all := make(map[string]string, len(d.header)+len(d.Msg.Header))
	maps.Copy(all, d.Msg.Header)
	for k, v := range d.header {
		if len(v) > 0 {
			all[k] = v[0]
		}
	}
	return all
}

// Ack ends the delivery: the message will not come again. It does not wait for
// the broker; a lost acknowledgement means one more delivery. Ending a delivery
// twice does nothing.
func (d *Delivery) Ack() error { return d.settle(Acked, 0, ackBody) }

// Nak asks for the message again after delay.
func (d *Delivery) Nak(delay time.Duration) error {
	if delay <= 0 {
		return d.settle(Nakked, 0, []byte("-NAK"))
	}
	return d.settle(Nakked, delay, append(strconv.AppendInt([]byte(`-NAK {"delay": `), delay.Nanoseconds(), 10), '}'))
}

// Term ends the delivery of a message that can never be handled: it will not
// come again. The reason is shown to the broker's operators.
func (d *Delivery) Term(reason string) error {
	reason = strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, reason)
	return d.settle(Termed, 0, []byte(strings.TrimSpace("+TERM "+reason)))
}

// InProgress starts the AckWait anew for a message that takes long.
func (d *Delivery) InProgress() error {
	if d.settled.Load() || d.answer != nil {
		return nil
	}
	return d.respond(progressBody)
}

var ackBody, progressBody = []byte("+ACK"), []byte("+WPI")

func (d *Delivery) settle(how End, delay time.Duration, body []byte) error {
	if !d.settled.CompareAndSwap(false, true) {
		return nil
	}
	if d.answer != nil {
		return d.answer(how, delay)
	}
	if err := d.respond(body); err != nil {
		d.settled.Store(false)
		return err
	}
	return nil
}

func (d *Delivery) respond(body []byte) error {
	if d.conn == nil {
		return errs.E(errs.FailedPrecondition, ReasonInvalid, "delivery did not come from the bus")
	}
	if err := d.conn.Publish(d.reply, body); err != nil {
		return classified(err)
	}
	return nil
}

// newDelivery reads what the broker says about a message from its reply subject:
//
//	$JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time>.<pending>
//	$JS.ACK.<domain>.<account hash>.<stream>.<consumer>.<deliveries>.…[.<random>]
func newDelivery(m jetstream.Msg, stream string, conn *nats.Conn) (*Delivery, bool) {
	h := m.Headers()
	d := &Delivery{Msg: Msg{Subject: m.Subject(), Data: m.Data()}, Stream: stream, header: h, reply: m.Reply(), conn: conn}
	if id := h[jetstream.MsgIDHeader]; len(id) > 0 {
		d.ID = id[0]
	}
	rest, ok := strings.CutPrefix(d.reply, "$JS.ACK.")
	if !ok {
		return d, false
	}
	skip := 2 // stream and consumer
	if strings.Count(rest, ".") > 6 {
		skip = 4
	}
	for ; skip > 0; skip-- {
		_, rest, _ = strings.Cut(rest, ".")
	}
	var n [5]uint64 // deliveries, stream seq, consumer seq, time, pending
	for i := range n {
		var token string
		token, rest, _ = strings.Cut(rest, ".")
		v, err := strconv.ParseUint(token, 10, 64)
		if err != nil {
			return d, false
		}
		n[i] = v
	}
	d.Deliveries, d.Seq, d.Time, d.Pending = n[0], n[1], time.Unix(0, int64(n[3])), n[4]
	return d, true
}
