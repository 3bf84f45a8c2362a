package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A step is one transaction of the saga: a service hears a subject, moves its row of
// the saga from one status to the next and says so.
type step struct{ service, hears, from, to, says string }

// saga is the whole choreography. Its first step is a command, its last says nothing.
var saga = [...]step{
	{"order", "", "", "placed", "order.placed"},
	{"inventory", "order.placed", "", "reserved", "inventory.reserved"},
	{"payment", "inventory.reserved", "", "authorized", "payment.authorized"},
	{"shipping", "payment.authorized", "", "scheduled", "shipping.scheduled"},
	{"payment", "shipping.scheduled", "authorized", "captured", "payment.captured"},
	{"order", "payment.captured", "placed", "completed", "order.completed"},
	{"notification", "order.completed", "", "notified", ""},
}

const (
	payloadSize = 300
	forgetEvery = 50 * time.Millisecond // one statement for all that was published meanwhile
)

// An id names an event or a saga. It begins with the time, for the sake of indexes.
type id [16]byte

func newID() (x id) {
	binary.BigEndian.PutUint64(x[:8], uint64(time.Now().UnixMilli())<<16|rand.Uint64()>>48)
	binary.BigEndian.PutUint64(x[8:], rand.Uint64())
	return x
}

// A message is an event that was heard, or the command that begins a saga.
type message struct {
	event, saga id
	step        *step
	raw         jetstream.Msg   // of an event, to acknowledge
	told        chan<- struct{} // of a command, whose caller waits for the commit

	status  string // of the saga in this service: as it was stored, then as it will be
	version int64
}

// An event is a row of the outbox.
type event struct {
	id, saga id
	subject  string
	payload  []byte
	seq      int64
}

// A store has the tables of one service.
type store interface {
	// transact takes a batch through one transaction. The first round trip notes the
	// messages in the inbox and locks and reads the sagas of those not noted before;
	// decide moves these on in memory; the second stores them and the events.
	transact(batch []message, decide func(fresh []*message) []event) ([]event, error)
	// forget removes published events. A crash may undo it: what is published twice
	// for that reason, an inbox drops.
	forget(seqs []int64) error
	count(status string, version int64) (counts, error)
	close()
}

// counts are numbers of rows; complete are the states with a certain status and version.
type counts struct{ inbox, outbox, states, complete int64 }

// index finds the messages of a batch by what a database returns of them.
type index struct {
	byEvent, bySaga map[id]*message
	fresh           []*message
}

func (x *index) reset(batch []message) {
	if x.byEvent == nil {
		x.byEvent, x.bySaga = map[id]*message{}, map[id]*message{}
	}
	clear(x.byEvent)
	clear(x.bySaga)
	x.fresh = x.fresh[:0]
	for i := range batch {
		x.byEvent[batch[i].event], x.bySaga[batch[i].saga] = &batch[i], &batch[i]
	}
}

func (x *index) noted(event []byte) { x.fresh = append(x.fresh, x.byEvent[id(event)]) }

func (x *index) stored(saga []byte, status string, version int64) {
	m := x.bySaga[id(saga)]
	m.status, m.version = status, version
}

// A service hears, decides in batches and says.
type service struct {
	name      string
	store     store
	committed func([]message) // told of every batch
	conn      *nats.Conn
	js        jetstream.JetStream
	in        chan message
	most      int          // messages in a batch
	out       chan []event // committed, to be published
	reply     string       // how the subjects begin that the broker acknowledges on; a seq follows

	mu        sync.Mutex
	published []int64 // to be forgotten
}

// startServices starts all services, the order service first in the list. They run
// until ctx ends; what goes wrong is told to fail.
func startServices(ctx context.Context, cfg config, dir string, broker *server.Server, committed func([]message),
	running *sync.WaitGroup, fail context.CancelCauseFunc) (all []*service, err error) {
	for _, name := range []string{"order", "inventory", "payment", "shipping", "notification"} {
		s := &service{name: name, committed: func([]message) {}, in: make(chan message, 8*cfg.batch), most: cfg.batch, out: make(chan []event, 64)}
		if cfg.db != "" {
			s.store, err = openPostgres(ctx, cfg.db, "floor_"+name)
		} else {
			s.store, err = openSQLite(dir, name)
		}
		if err != nil {
			return all, err
		}
		all = append(all, s)
		if err := s.connect(ctx, broker, fail); err != nil {
			return all, err
		}
	}
	all[0].committed = committed
	for _, s := range all {
		if err := s.listen(ctx); err != nil {
			return all, err
		}
		for _, loop := range []func(context.Context) error{s.work, s.publish, s.forget} {
			running.Go(func() {
				if err := loop(ctx); err != nil {
					fail(fmt.Errorf("%s: %w", s.name, err))
				}
			})
		}
	}
	return all, nil
}

func (s *service) close() {
	if s.conn != nil {
		s.conn.Close()
	}
	s.store.close()
}

// connect makes the stream of the service and listens for the broker's answers.
func (s *service) connect(ctx context.Context, broker *server.Server, fail context.CancelCauseFunc) (err error) {
	if s.conn, err = nats.Connect("", nats.InProcessServer(broker)); err != nil {
		return err
	}
	if s.js, err = jetstream.New(s.conn); err != nil {
		return err
	}
	if _, err := s.js.CreateStream(ctx, jetstream.StreamConfig{Name: s.name, Subjects: []string{s.name + ".>"}}); err != nil {
		return err
	}
	s.reply = s.conn.NewInbox() + "."
	_, err = s.conn.Subscribe(s.reply+"*", func(m *nats.Msg) {
		seq, err := strconv.ParseInt(m.Subject[len(s.reply):], 10, 64)
		if err != nil || !bytes.HasPrefix(m.Data, []byte(`{"stream":`)) {
			fail(fmt.Errorf("%s: the broker answers %q", s.name, m.Data))
			return
		}
		s.mu.Lock()
		s.published = append(s.published, seq)
		s.mu.Unlock()
	})
	return err
}

// listen consumes what the steps of the service hear.
func (s *service) listen(ctx context.Context) error {
	for i := range saga {
		step := &saga[i]
		if step.service != s.name || step.hears == "" {
			continue
		}
		stream, what, _ := strings.Cut(step.hears, ".")
		consumer, err := s.js.CreateConsumer(ctx, stream, jetstream.ConsumerConfig{
			Durable: s.name + "-" + what, FilterSubject: step.hears, AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: -1,
		})
		if err != nil {
			return err
		}
		_, err = consumer.Consume(func(raw jetstream.Msg) {
			m := message{step: step, raw: raw, saga: id(raw.Data())}
			if _, err := hex.Decode(m.event[:], []byte(raw.Headers().Get(jetstream.MsgIDHeader))); err != nil {
				return // not ours
			}
			select {
			case s.in <- m:
			case <-ctx.Done():
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// work forms batches of what has come and never waits for more.
func (s *service) work(ctx context.Context) error {
	batch := make([]message, 0, s.most)
	for {
		select {
		case m := <-s.in:
			batch = append(batch[:0], m)
		case <-ctx.Done():
			return nil
		}
		for more := true; more && len(batch) < s.most; {
			select {
			case m := <-s.in:
				batch = append(batch, m)
			default:
				more = false
			}
		}
		events, err := s.store.transact(batch, decide)
		if err != nil {
			return err
		}
		if len(events) > 0 {
			select {
			case s.out <- events:
			case <-ctx.Done():
				return nil
			}
		}
		for i := range batch {
			if raw := batch[i].raw; raw != nil {
				if err := raw.Ack(); err != nil {
					return err
				}
			}
		}
		s.committed(batch)
	}
}

// decide is the whole business.
func decide(fresh []*message) []event {
	events := make([]event, 0, len(fresh))
	payloads := make([]byte, len(fresh)*payloadSize)
	for _, m := range fresh {
		if m.status == m.step.from { // else the counts will tell
			m.status = m.step.to
		}
		m.version++
		if m.step.says == "" {
			continue
		}
		var p []byte
		p, payloads = payloads[:payloadSize], payloads[payloadSize:]
		copy(p, m.saga[:])
		events = append(events, event{id: newID(), saga: m.saga, subject: m.step.says, payload: p})
	}
	return events
}

// publish is the relay. It uses the client below its JetStream layer, which would
// keep a future and parse JSON for each message.
func (s *service) publish(ctx context.Context) error {
	var text [32]byte
	header := []string{""}
	m := nats.Msg{Header: nats.Header{jetstream.MsgIDHeader: header}}
	for {
		select {
		case events := <-s.out:
			for i := range events {
				e := &events[i]
				hex.Encode(text[:], e.id[:])
				header[0] = string(text[:])
				m.Subject, m.Reply, m.Data = e.subject, s.reply+strconv.FormatInt(e.seq, 10), e.payload
				if err := s.conn.PublishMsg(&m); err != nil { // copies m
					return err
				}
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// forget removes from the outbox what the broker has acknowledged.
func (s *service) forget(ctx context.Context) error {
	tick := time.NewTicker(forgetEvery)
	defer tick.Stop()
	var seqs []int64
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		s.mu.Lock()
		seqs, s.published = s.published, seqs[:0]
		s.mu.Unlock()
		if len(seqs) == 0 {
			continue
		}
		if err := s.store.forget(seqs); err != nil {
			return err
		}
	}
}
