package bus

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/waybill-dev/waybill/platform/errs"
)

// A Msg is what is published. ID makes publishing it again harmless within the
// stream's duplicate window; Header keys are case-sensitive and must not begin
// with "Nats-". The bus keeps neither Header nor Data after the publish ended.
type Msg struct {
	ID      string
	Subject string
	Header  map[string]string
	Data    []byte
}

// Publish stores m in the stream and returns its sequence once the broker has
// acknowledged it; a repeated ID gives the sequence of the first. Publish does
// not try again by itself. See Class for what to do about an error: unless it
// says otherwise, m may or may not have been stored.
func (b *Bus) Publish(ctx context.Context, stream string, m Msg) (seq uint64, err error) {
	type result struct {
		seq uint64
		err error
	}
	if b.closing.Load() {
		return 0, errClosed
	}
	done := make(chan result, 1)
	if err := b.pub.send(ctx, stream, &m, nil, func(seq uint64, err error) { done <- result{seq, err} }); err != nil {
		return 0, err
	}
	select {
	case r := <-done:
		return r.seq, r.err
	case <-ctx.Done():
		return 0, classified(ctx.Err())
	}
}

// PublishAsync sends m to the stream and calls done exactly once: with the
// sequence when the broker has acknowledged it, or with an error, at the latest
// after Config.AckTimeout. Messages published by one goroutine are stored in
// that order. When Config.Window publishes wait for their answer, PublishAsync
// blocks until one has got it, which takes no longer than the timeout.
//
// done runs on the goroutine that reads the broker's answers, or before
// PublishAsync returns: it must be quick and must not publish.
func (b *Bus) PublishAsync(stream string, m Msg, done func(seq uint64, err error)) {
	if b.closing.Load() {
		done(0, errClosed)
		return
	}
	if err := b.pub.send(context.Background(), stream, &m, nil, done); err != nil {
		done(0, err)
	}
}

// publisher keeps the window of publishes that wait for an answer. It does what
// jetstream.PublishMsgAsync does, but it never retries by itself (which would
// change the order), ends every publish exactly once also when the connection
// goes away, and needs no timer per message.
type publisher struct {
	timeout time.Duration
	lost    func(stream string) // told when a stream seems to be gone; must not block
	conn    *nats.Conn
	sub     *nats.Subscription
	prefix  string   // of the reply subjects
	free    chan int // indexes of slots nobody waits in

	mu    sync.Mutex
	slots []slot
	turn  uint64 // counts up; makes a reply subject unique, so that a late answer meets nobody

	acked, failed, timeouts atomic.Uint64

	stopping sync.Once
	stopped  chan struct{}
	done     sync.WaitGroup
}

type slot struct {
	turn     uint64 // 0 if free
	stream   string
	subject  string
	deadline time.Time
	done     func(seq uint64, err error)
}

func newPublisher(window int, timeout time.Duration, lost func(string)) *publisher {
	p := &publisher{timeout: timeout, lost: lost, free: make(chan int, window), slots: make([]slot, window), stopped: make(chan struct{})}
	for i := range window {
		p.free <- i
	}
	return p
}

func (p *publisher) start(conn *nats.Conn) (err error) {
	p.conn = conn
	p.prefix = conn.NewInbox() + "."
	if p.sub, err = conn.Subscribe(p.prefix+"*", p.answer); err != nil {
		return err
	}
	p.done.Go(p.watchTime)
	return nil
}

// batchMark places a message in an atomic batch. Only the commit is answered.
type batchMark struct {
	id     string
	seq    int
	commit bool
}

// send puts m on the wire. If it returns an error, done will not be called.
func (p *publisher) send(ctx context.Context, stream string, m *Msg, mark *batchMark, done func(uint64, error)) error {
	if err := check(m); err != nil {
		return err
	}
	i, err := p.acquire(ctx)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.turn++
	turn := p.turn
	p.slots[i] = slot{turn: turn, stream: stream, subject: m.Subject, deadline: time.Now().Add(p.timeout), done: done}
	p.mu.Unlock()

	var token [32]byte
	reply := p.prefix + string(strconv.AppendUint(token[:0], turn*uint64(len(p.slots))+uint64(i), 36))
	if err := p.write(stream, m, mark, reply); err != nil {
		if _, ok := p.take(i, turn); ok { // else the connection went away meanwhile and done has been called
			p.failed.Add(1)
			p.free <- i
			return classified(err)
		}
	}
	return nil
}

func (p *publisher) acquire(ctx context.Context) (int, error) {
	select {
	case i := <-p.free:
		return i, nil
	default:
	}
	select {
	case i := <-p.free:
		return i, nil
	case <-ctx.Done():
		return 0, classified(ctx.Err())
	case <-p.stopped:
		return 0, errClosed
	}
}

// An envelope holds what sending one message needs besides the message; the
// client library copies everything out before PublishMsg returns.
type envelope struct {
	msg    nats.Msg
	values []string
}

var envelopes = sync.Pool{New: func() any { return &envelope{msg: nats.Msg{Header: nats.Header{}}} }}

func (p *publisher) write(stream string, m *Msg, mark *batchMark, reply string) error {
	e := envelopes.Get().(*envelope)
	// The values lie in one array that must not move once it is pointed into.
	if need := len(m.Header) + 6; cap(e.values) < need {
		e.values = make([]string, 0, need)
	}
	set := func(k, v string) {
		e.values = append(e.values, v)
		n := len(e.values)
		e.msg.Header[k] = e.values[n-1 : n : n]
	}
	for k, v := range m.Header {
		set(k, v)
	}
	if strings.HasSuffix(m.Header["traceparent"], "-01") {
		// Else the broker reads all headers into a map, to see whether it shall trace the message itself.
		set("Nats-Trace-Dest", "trace disabled")
	}
	if m.ID != "" {
		set(jetstream.MsgIDHeader, m.ID)
	}
	set(jetstream.ExpectedStreamHeader, stream)
	if mark != nil {
		set("Nats-Batch-Id", mark.id)
		set("Nats-Batch-Sequence", strconv.Itoa(mark.seq))
		if mark.commit {
			set("Nats-Batch-Commit", "1")
		}
	}
	e.msg.Subject, e.msg.Reply, e.msg.Data = m.Subject, reply, m.Data
	err := p.conn.PublishMsg(&e.msg)
	clear(e.msg.Header)
	clear(e.values)
	e.values, e.msg.Data = e.values[:0], nil
	envelopes.Put(e)
	return err
}

// take empties slot i if it still belongs to turn.
func (p *publisher) take(i int, turn uint64) (slot, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.slots[i]
	if s.turn != turn {
		return slot{}, false
	}
	p.slots[i] = slot{}
	return s, true
}

// finish tells the publisher of slot i and then gives the slot back, so that a
// free window means that every done has been called.
func (p *publisher) finish(i int, s slot, seq uint64, err error) {
	if err == nil {
		p.acked.Add(1)
	} else {
		p.failed.Add(1)
	}
	s.done(seq, err)
	p.free <- i
}

func (p *publisher) answer(m *nats.Msg) {
	token, err := strconv.ParseUint(m.Subject[len(p.prefix):], 36, 64)
	if err != nil {
		return
	}
	i, turn := int(token%uint64(len(p.slots))), token/uint64(len(p.slots))
	if s, ok := p.take(i, turn); ok {
		seq, err := verdict(m, s.stream)
		if errors.Is(err, nats.ErrNoResponders) {
			p.lost(s.stream)
		}
		p.finish(i, s, seq, err)
	}
}

// verdict reads the broker's answer. Only a sequence above zero in the stream
// that was meant is success: a duplicate still being stored is answered without one.
func verdict(m *nats.Msg, stream string) (uint64, error) {
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		return 0, classified(nats.ErrNoResponders)
	}
	if seq, ok := plainAck(m.Data, stream); ok {
		return seq, nil
	}
	var ack struct {
		Error *jetstream.APIError `json:"error"`
		*jetstream.PubAck
	}
	switch err := json.Unmarshal(m.Data, &ack); {
	case err != nil:
		return 0, unavailable(errors.New("the answer is not an acknowledgement"))
	case ack.Error != nil:
		return 0, classified(ack.Error)
	case ack.PubAck == nil || ack.Sequence == 0:
		return 0, unavailable(errors.New("the answer has no sequence"))
	case ack.Stream != stream:
		return 0, errs.E(errs.FailedPrecondition, ReasonWrongStream, "message went to stream %s instead of %s", ack.Stream, stream)
	}
	return ack.Sequence, nil
}

// plainAck reads the usual {"stream":"NAME","seq":N…} without reflection.
func plainAck(data []byte, stream string) (uint64, bool) {
	rest, ok := bytes.CutPrefix(data, []byte(`{"stream":"`))
	if !ok || len(rest) < len(stream) || string(rest[:len(stream)]) != stream {
		return 0, false
	}
	if rest, ok = bytes.CutPrefix(rest[len(stream):], []byte(`","seq":`)); !ok {
		return 0, false
	}
	var seq uint64
	for i, c := range rest {
		if c >= '0' && c <= '9' && i < 19 {
			seq = seq*10 + uint64(c-'0')
			continue
		}
		return seq, seq > 0 && (c == '}' || c == ',')
	}
	return 0, false
}

// watchTime ends publishes that got no answer.
func (p *publisher) watchTime() {
	tick := time.NewTicker(max(p.timeout/20, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			if len(p.free) == cap(p.free) {
				continue
			}
			p.timeouts.Add(p.fail(classified(nats.ErrTimeout), func(s slot) bool { return now.After(s.deadline) }))
		case <-p.stopped:
			return
		}
	}
}

// failAll ends every publish that waits.
func (p *publisher) failAll(err error) { p.fail(err, func(slot) bool { return true }) }

func (p *publisher) fail(err error, which func(slot) bool) (n uint64) {
	for i := range p.slots {
		p.mu.Lock()
		s := p.slots[i]
		hit := s.turn != 0 && which(s)
		if hit {
			p.slots[i] = slot{}
		}
		p.mu.Unlock()
		if hit {
			p.finish(i, s, 0, err)
			n++
		}
	}
	return n
}

// drain waits until nobody waits for an answer. It keeps the window, so nothing
// can be published afterwards.
func (p *publisher) drain(ctx context.Context) error {
	for n := range cap(p.free) {
		select {
		case <-p.free:
		case <-ctx.Done():
			return errs.E(errs.DeadlineExceeded, ReasonTimeout, "%d publishes without an answer", cap(p.free)-n)
		}
	}
	return nil
}

// close fails what still waits and whoever waits for a place in the window.
func (p *publisher) close() {
	p.stopping.Do(func() { close(p.stopped) })
	p.done.Wait()
	p.failAll(errClosed)
}

// check refuses what the broker would misread or drop the connection for.
func check(m *Msg) error {
	if !validSubject(m.Subject) {
		return errs.E(errs.Invalid, ReasonInvalid, "subject %q cannot be published to", m.Subject)
	}
	if strings.ContainsAny(m.ID, "\r\n") {
		return errs.E(errs.Invalid, ReasonInvalid, "message ID %q has a line break", m.ID)
	}
	for k, v := range m.Header {
		if !validHeader(k) || strings.ContainsAny(v, "\r\n") || strings.HasPrefix(k, "Nats-") {
			return errs.E(errs.Invalid, ReasonInvalid, "header %q cannot be sent", k)
		}
	}
	return nil
}

// validSubject tells whether s names exactly one subject: tokens of printable
// characters without wildcards, joined by dots.
func validSubject(s string) bool {
	if s == "" || s[0] == '.' || s[len(s)-1] == '.' || strings.Contains(s, "..") {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == '*' || c == '>' || c == 0x7f {
			return false
		}
	}
	return true
}

func validHeader(k string) bool {
	for i := range len(k) {
		if c := k[i]; c <= ' ' || c == ':' || c >= 0x7f {
			return false
		}
	}
	return k != ""
}
