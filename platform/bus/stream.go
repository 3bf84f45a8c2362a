package bus

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/failpoint"
)

// A Stream keeps the events of one service. The zero value of every field but
// Name and Subjects has a sensible meaning.
type Stream struct {
	Name       string
	Subjects   []string      // may have wildcards
	MaxBytes   int64         // 0 means 1 GiB; a full stream refuses new messages and forgets none
	MaxMsgSize int32         // 0 means 256 KiB, headers included
	MaxAge     time.Duration // 0 means 14 days
	Replicas   int           // 0 means Config.Replicas; the embedded broker always has 1
	// Duplicates is for how long a repeated ID is recognised; 0 means 10 s. The
	// broker holds every ID of that time in memory (about 150 bytes each), and
	// consumers have to recognise repetitions anyhow.
	Duplicates time.Duration
}

// StreamInfo is what the broker says about a stream.
type StreamInfo struct {
	Name              string
	Created           time.Time // changes when the stream was lost and made anew
	Messages, Bytes   uint64
	FirstSeq, LastSeq uint64
	Missing           uint64 // sequence numbers between these two at which there is no message
	MaxBytes          int64
	Consumers         int
	Subjects          uint64
}

// EnsureStream creates the stream, or changes it if it exists with other
// settings; if it is there as wanted it is left alone. If the broker is away,
// EnsureStream returns nil and the stream is created as soon as it answers;
// until then Ready names it. The bus also creates a stream again that somebody
// deleted. Errors are Invalid for settings that make no sense and
// FailedPrecondition for those the broker refuses.
func (b *Bus) EnsureStream(ctx context.Context, s Stream) error {
	cfg, err := b.streamConfig(s)
	if err != nil {
		return err
	}
	failpoint.Before("stream.ensure")
	err = b.keeper.ensure(ctx, cfg)
	failpoint.After("stream.ensure")
	return err
}

// StreamInfo asks the broker about a stream. Errors are NotFound if there is no
// such stream, PermissionDenied if the broker does not allow to ask and
// Unavailable if it does not answer.
func (b *Bus) StreamInfo(ctx context.Context, stream string) (StreamInfo, error) {
	ctx, result := b.asking(ctx, stream, "")
	s, err := b.js.Stream(ctx, stream)
	err = result(err)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		b.keeper.lost(stream) // if it is one of ours, somebody deleted it
		return StreamInfo{}, errs.Wrap(err, errs.NotFound, ReasonUnavailable, "no stream %s", stream)
	}
	if err != nil {
		return StreamInfo{}, classified(err)
	}
	i := s.CachedInfo()
	return StreamInfo{
		Name: i.Config.Name, Created: i.Created, Messages: i.State.Msgs, Bytes: i.State.Bytes,
		FirstSeq: i.State.FirstSeq, LastSeq: i.State.LastSeq, Missing: uint64(i.State.NumDeleted), MaxBytes: i.Config.MaxBytes,
		Consumers: i.State.Consumers, Subjects: i.State.NumSubjects,
	}, nil
}

// ConsumerInfo is what the broker says about a consumer.
type ConsumerInfo struct {
	Created     time.Time
	Config      string // tells whether two consumers were made from the same settings
	AckPending  int    // delivered, but neither acknowledged nor given up
	Pending     uint64 // not delivered yet
	Redelivered int    // of AckPending, delivered more than once
	AckedSeq    uint64 // everything up to here is done
}

// ConsumerInfo asks the broker about a consumer. Errors are NotFound if there
// is no such consumer and Unavailable if the broker does not answer.
func (b *Bus) ConsumerInfo(ctx context.Context, stream, durable string) (ConsumerInfo, error) {
	c, err := b.js.Consumer(ctx, stream, durable)
	if errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrConsumerNotFound) {
		return ConsumerInfo{}, errs.Wrap(err, errs.NotFound, ReasonUnavailable, "stream %s has no consumer %s", stream, durable)
	}
	if err != nil {
		return ConsumerInfo{}, classified(err)
	}
	i := c.CachedInfo()
	return ConsumerInfo{
		Created: i.Created, Config: i.Config.Metadata[fingerprintKey], AckPending: i.NumAckPending,
		Pending: i.NumPending, Redelivered: i.NumRedelivered, AckedSeq: i.AckFloor.Stream,
	}, nil
}

const fingerprintKey = "waybill-config"

func (b *Bus) streamConfig(s Stream) (jetstream.StreamConfig, error) {
	setDefault(&s.MaxBytes, 1<<30)
	setDefault(&s.MaxMsgSize, 256<<10)
	setDefault(&s.MaxAge, 14*24*time.Hour)
	setDefault(&s.Replicas, b.cfg.Replicas)
	setDefault(&s.Duplicates, min(10*time.Second, s.MaxAge))
	if b.Embedded() {
		s.Replicas = 1
	}
	cfg := jetstream.StreamConfig{
		Name: s.Name, Subjects: slices.Sorted(slices.Values(s.Subjects)),
		Storage:     jetstream.FileStorage,
		Retention:   jetstream.LimitsPolicy, // never by interest: whoever comes later finds the past
		Discard:     jetstream.DiscardNew,   // refuse, do not forget
		MaxBytes:    s.MaxBytes,
		MaxMsgSize:  s.MaxMsgSize,
		MaxAge:      s.MaxAge,
		MaxMsgs:     -1,
		Replicas:    s.Replicas,
		Duplicates:  s.Duplicates,
		DenyDelete:  true,
		DenyPurge:   true,
		AllowDirect: false, // an answer could be stale
		// One flush to disk for the whole of PublishBatch.
		AllowAtomicPublish: true,
	}
	switch {
	case !validName(s.Name):
		return cfg, errs.E(errs.Invalid, ReasonConfig, "stream name %q is empty or has a dot, blank or wildcard", s.Name)
	case len(s.Subjects) == 0:
		return cfg, errs.E(errs.Invalid, ReasonConfig, "stream %s has no subjects", s.Name)
	case s.MaxBytes < 0 || s.MaxMsgSize < 0 || s.MaxAge < 0 || s.Duplicates < 0 || s.Replicas < 0:
		return cfg, errs.E(errs.Invalid, ReasonConfig, "stream %s has a negative limit", s.Name)
	case s.Duplicates > s.MaxAge || s.Duplicates < 100*time.Millisecond:
		return cfg, errs.E(errs.Invalid, ReasonConfig, "stream %s: the duplicate window must lie between 100 ms and the age limit", s.Name)
	}
	cfg.Metadata = map[string]string{fingerprintKey: fingerprint(cfg)}
	return cfg, nil
}

func validName(s string) bool {
	for _, r := range s {
		if r <= ' ' || r == '.' || r == '*' || r == '>' || r == '/' || r == '\\' || r == 0x7f {
			return false
		}
	}
	return s != ""
}

// fingerprint is how a stream or consumer tells whether it was made from these
// settings; the broker fills in defaults, so that comparing them all would not do.
func fingerprint(cfg any) string {
	text, err := json.Marshal(cfg)
	if err != nil {
		text = fmt.Appendf(nil, "%+v", cfg)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// keeper sees to it that the wanted streams exist.
type keeper struct {
	b    *Bus
	mu   sync.Mutex
	want map[string]*wanted
	wake chan struct{}
	stop func()
}

type wanted struct {
	cfg jetstream.StreamConfig
	err error // why it is not known to exist; nil if it is
}

var errUnknown = errors.New("not looked at yet")

func newKeeper(b *Bus) *keeper {
	return &keeper{b: b, want: map[string]*wanted{}, wake: make(chan struct{}, 1), stop: func() {}}
}

func (k *keeper) start() {
	ctx, cancel := context.WithCancel(k.b.ctx)
	var running sync.WaitGroup
	running.Go(func() { k.run(ctx) })
	k.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
}

func (k *keeper) ensure(ctx context.Context, cfg jetstream.StreamConfig) error {
	err := unavailable(errors.New("not connected"))
	if k.b.conn.IsConnected() {
		ctx, cancel := context.WithTimeout(ctx, apiTimeout)
		defer cancel()
		err = k.b.putStream(ctx, cfg)
	}
	if err != nil && !passing(err) {
		return errs.Wrap(err, errs.FailedPrecondition, ReasonConfig, "stream %s: %v", cfg.Name, err)
	}
	k.mu.Lock()
	k.want[cfg.Name] = &wanted{cfg: cfg, err: err}
	k.mu.Unlock()
	if err != nil {
		k.b.log.Warn("stream cannot be created yet", "stream", cfg.Name, "error", err)
		k.poke()
	}
	return nil
}

func (k *keeper) set(name string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if w := k.want[name]; w != nil {
		w.err = err
	}
}

// recheck makes the keeper look at every stream again, because it may be gone.
func (k *keeper) recheck() {
	k.mu.Lock()
	for _, w := range k.want {
		if w.err == nil {
			w.err = errUnknown
		}
	}
	k.mu.Unlock()
	k.poke()
}

// lost makes the keeper look at one stream again.
func (k *keeper) lost(name string) {
	k.mu.Lock()
	w := k.want[name]
	news := w != nil && w.err == nil
	if news {
		w.err = errUnknown
	}
	k.mu.Unlock()
	if news {
		k.poke()
	}
}

func (k *keeper) poke() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

func (k *keeper) missing() []jetstream.StreamConfig {
	k.mu.Lock()
	defer k.mu.Unlock()
	var cfgs []jetstream.StreamConfig
	for _, name := range slices.Sorted(maps.Keys(k.want)) {
		if w := k.want[name]; w.err != nil {
			cfgs = append(cfgs, w.cfg)
		}
	}
	return cfgs
}

func (k *keeper) problem() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(k.want)) {
		if w := k.want[name]; w.err != nil {
			return errs.Wrap(w.err, errs.Unavailable, ReasonUnavailable, "stream %s: %v", name, w.err)
		}
	}
	return nil
}

func (k *keeper) run(ctx context.Context) {
	for pause := newBackoff(100*time.Millisecond, 5*time.Second); ; {
		missing := k.missing()
		if len(missing) == 0 {
			pause.reset()
			if !pause.idle(ctx, k.wake) {
				return
			}
			continue
		}
		for _, cfg := range missing {
			call, cancel := context.WithTimeout(ctx, apiTimeout)
			err := k.b.putStream(call, cfg)
			cancel()
			k.set(cfg.Name, err)
			if err != nil && !passing(err) {
				k.b.log.Error("stream refused", "stream", cfg.Name, "error", err)
			}
		}
		if len(k.missing()) > 0 && !pause.wait(ctx, k.wake) {
			return
		}
	}
}

// putStream makes the stream exist as cfg says. Several processes may do so at once.
func (b *Bus) putStream(ctx context.Context, cfg jetstream.StreamConfig) error {
	ctx, result := b.asking(ctx, cfg.Name, "")
	return result(b.doPutStream(ctx, cfg))
}

func (b *Bus) doPutStream(ctx context.Context, cfg jetstream.StreamConfig) error {
	s, err := b.js.Stream(ctx, cfg.Name)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		if _, err = b.js.CreateStream(ctx, cfg); !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			if err == nil {
				b.log.Info("stream created", "stream", cfg.Name)
			}
			return err
		}
		if s, err = b.js.Stream(ctx, cfg.Name); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	if s.CachedInfo().Config.Metadata[fingerprintKey] == cfg.Metadata[fingerprintKey] {
		return nil
	}
	if _, err = b.js.UpdateStream(ctx, cfg); err == nil {
		b.log.Info("stream changed", "stream", cfg.Name)
	}
	return err
}

// passing tells whether an error of the broker's administration goes away by
// itself: it did not answer, or it said "not now".
func passing(err error) bool {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return !errors.Is(err, jetstream.ErrNotPullConsumer)
	}
	switch api.ErrorCode {
	case codeUnavailable, codeInsufficient, jetstream.JSErrCodeStreamNotFound:
		return true
	}
	return false
}
