package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/waybill-dev/waybill/platform/errs"
)

// A Span is a run of sequence numbers, both ends included.
type Span struct{ First, Last uint64 }

// readers is how many messages ReadStream asks for at once. The broker answers
// questions about streams one after the other.
const readers = 32

// ReadStream gives the messages that lie at these sequence numbers of a stream,
// with their headers; nil for those that are not there or cannot be read. It is
// meant for looking at a stream, not for following it. The error is NotFound if
// there is no such stream, and Unavailable if the broker does not answer.
func (b *Bus) ReadStream(ctx context.Context, stream string, seqs []uint64) ([]*Msg, error) {
	out := make([]*Msg, len(seqs))
	ctx, result := b.asking(ctx, stream, "")
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var hands sync.WaitGroup
	for h := range min(readers, len(seqs)) {
		hands.Go(func() {
			for i := h; i < len(seqs) && ctx.Err() == nil; i += readers {
				m, err := b.readOne(ctx, stream, seqs[i])
				if err != nil {
					cancel(err)
					return
				}
				out[i] = m
			}
		})
	}
	hands.Wait()
	err := context.Cause(ctx)
	if err = result(err); err == nil {
		return out, nil
	}
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, errs.Wrap(err, errs.NotFound, ReasonUnavailable, "no stream %s", stream)
	}
	return nil, classified(err)
}

// readOne gives nil for a message that the stream does not have.
func (b *Bus) readOne(ctx context.Context, stream string, seq uint64) (*Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	resp, err := b.conn.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+stream, fmt.Appendf(nil, `{"seq":%d}`, seq))
	if err != nil {
		return nil, err
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Subject string `json:"subject"`
			Header  []byte `json:"hdrs"`
			Data    []byte `json:"data"`
		} `json:"message"`
	}
	if err := json.Unmarshal(resp.Data, &answer); err != nil {
		return nil, unavailable(errors.New("the answer is not a message"))
	}
	switch {
	case answer.Error == nil:
	case answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return nil, nil //nolint:nilnil // there is none
	default:
		return nil, answer.Error
	}
	m := &Msg{Subject: answer.Message.Subject, Data: answer.Message.Data, Header: map[string]string{}}
	if len(answer.Message.Header) == 0 {
		return m, nil
	}
	header, err := nats.DecodeHeadersMsg(answer.Message.Header)
	if err != nil {
		return nil, nil //nolint:nilnil // what cannot be read is as good as gone
	}
	for k, v := range header {
		switch {
		case k == jetstream.MsgIDHeader:
			m.ID = v[0]
		case !strings.HasPrefix(k, "Nats-"):
			m.Header[k] = v[0]
		}
	}
	return m, nil
}

// Gaps gives the sequence numbers between the first and the last message of a
// stream at which there is none, at most the latest 10,000 runs of them. Nobody may
// delete single messages, so each gap is something the broker has lost.
func (b *Bus) Gaps(ctx context.Context, stream string) ([]Span, error) {
	ctx, result := b.asking(ctx, stream, "")
	s, err := b.js.Stream(ctx, stream)
	var info *jetstream.StreamInfo
	if err == nil {
		info, err = s.Info(ctx, jetstream.WithDeletedDetails(true))
	}
	if err = result(err); err != nil {
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return nil, errs.Wrap(err, errs.NotFound, ReasonUnavailable, "no stream %s", stream)
		}
		return nil, classified(err)
	}
	slices.Sort(info.State.Deleted)
	spans := spansOf(info.State.Deleted)
	return spans[max(0, len(spans)-10_000):], nil
}

// spansOf gives sorted numbers as runs.
func spansOf(seqs []uint64) (spans []Span) {
	for _, s := range seqs {
		if n := len(spans); n > 0 && s <= spans[n-1].Last+1 {
			spans[n-1].Last = s
			continue
		}
		spans = append(spans, Span{s, s})
	}
	return spans
}
