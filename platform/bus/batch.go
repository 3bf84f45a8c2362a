package bus

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// batchMax is how many messages PublishBatch stores at once: larger batches are
// hardly faster, and brokers refuse more than 1000.
const batchMax = 512

// PublishBatch stores msgs in the stream in their order, in atomic batches of up
// to 512: one flush to disk for each. seqs[i] is the sequence of msgs[i], 0 if it
// is not known to be stored. If a batch is refused because one of its messages
// is stored already, or cannot be stored, its messages are published one by one.
// err is the first failure; messages behind a batch that failed are not sent.
func (b *Bus) PublishBatch(ctx context.Context, stream string, msgs []Msg) (seqs []uint64, err error) {
	seqs = make([]uint64, len(msgs))
	if b.closing.Load() {
		return seqs, errClosed
	}
	for from := 0; from < len(msgs) && err == nil; from += batchMax {
		to := min(from+batchMax, len(msgs))
		err = b.publishChunk(ctx, stream, msgs[from:to], seqs[from:to])
	}
	return seqs, err
}

func (b *Bus) publishChunk(ctx context.Context, stream string, msgs []Msg, seqs []uint64) error {
	if len(msgs) == 1 {
		return b.publishEach(ctx, stream, msgs, seqs)
	}
	last, err := b.pub.sendBatch(ctx, stream, msgs)
	if err != nil {
		if singly(err) {
			return b.publishEach(ctx, stream, msgs, seqs)
		}
		return err
	}
	for i := range seqs { // the batch lies in the stream without a gap
		seqs[i] = last - uint64(len(msgs)-1-i)
	}
	return nil
}

// singly tells whether a batch was refused for something that concerns one of
// its messages, or the batch itself, but not every message.
func singly(err error) bool {
	if c := Class(err); c == TooLarge || c == Invalid {
		return true
	}
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return false
	}
	switch api.ErrorCode {
	case codeBatchDuplicate, codeBatchPartial, codeBatchDisabled, codeBatchTooLarge, codeBatchHeader:
		return true
	}
	return false
}

// publishEach publishes msgs in order without waiting for one before sending
// the next.
func (b *Bus) publishEach(ctx context.Context, stream string, msgs []Msg, seqs []uint64) error {
	type result struct {
		i   int
		seq uint64
		err error
	}
	// Room for every answer, so that none blocks when the caller has gone.
	results := make(chan result, len(msgs))
	for i := range msgs {
		done := func(seq uint64, err error) { results <- result{i, seq, err} }
		if err := b.pub.send(ctx, stream, &msgs[i], nil, done); err != nil {
			done(0, err)
		}
	}
	first := result{i: len(msgs)}
	for range msgs {
		select {
		case r := <-results:
			seqs[r.i] = r.seq
			if r.err != nil && r.i < first.i {
				first = r
			}
		case <-ctx.Done():
			return classified(ctx.Err())
		}
	}
	return first.err
}

// sendBatch sends an atomic batch and waits for the answer to its commit, which
// is the only one asked for.
func (p *publisher) sendBatch(ctx context.Context, stream string, msgs []Msg) (last uint64, err error) {
	for i := range msgs {
		if err := check(&msgs[i]); err != nil {
			return 0, err
		}
	}
	type result struct {
		seq uint64
		err error
	}
	done := make(chan result, 1)
	mark := batchMark{id: nuid.Next()}
	for i := range msgs {
		mark.seq, mark.commit = i+1, i == len(msgs)-1
		if mark.commit {
			err = p.send(ctx, stream, &msgs[i], &mark, func(seq uint64, err error) { done <- result{seq, err} })
		} else if err = p.write(stream, &msgs[i], &mark, ""); err != nil {
			err = classified(err)
		}
		if err != nil { // the broker forgets a batch that is never committed
			return 0, err
		}
	}
	select {
	case r := <-done:
		return r.seq, r.err
	case <-ctx.Done():
		return 0, classified(ctx.Err())
	}
}
