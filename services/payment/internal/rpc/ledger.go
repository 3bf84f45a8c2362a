package rpc

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/errs"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	"github.com/waybill-dev/waybill/services/payment"
	"github.com/waybill-dev/waybill/services/payment/internal/store"
)

// ledgerPage is how many postings are read at once. No connection is held
// while they are sent.
const ledgerPage = 500

// ExportLedger sends the ledger up to what is booked when it begins.
func (s *Server) ExportLedger(req *paymentv1.ExportLedgerRequest, out grpc.ServerStreamingServer[paymentv1.ExportLedgerResponse]) error {
	ctx := out.Context()
	f := store.PostingFilter{Account: req.GetAccount()}
	if t := req.GetStartTime(); t != nil {
		f.Start = t.AsTime()
	}
	if t := req.GetEndTime(); t != nil {
		f.End = t.AsTime()
	}
	bound := binding(req)
	var err error
	if f.After, err = readToken(req.GetResumeToken(), bound); err != nil {
		return err
	}
	if f.UpTo, err = s.Store.ExportTo(ctx); err != nil {
		return err
	}
	if f.UpTo == 0 {
		return nil
	}
	for {
		page, err := s.Store.Export(ctx, f, ledgerPage)
		if err != nil {
			return err
		}
		for _, l := range page {
			if err := out.Send(&paymentv1.ExportLedgerResponse{Posting: presentPosting(l), ResumeToken: writeToken(l.Seq, bound)}); err != nil {
				return err
			}
		}
		if len(page) < ledgerPage {
			return nil
		}
		f.After = page[len(page)-1].Seq
	}
}

// binding ties a token to the request it continues.
func binding(req *paymentv1.ExportLedgerRequest) [8]byte {
	micros := func(t *timestamppb.Timestamp) int64 {
		if t == nil {
			return -1
		}
		return t.AsTime().UnixMicro()
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "ledger %d %d %d", micros(req.GetStartTime()), micros(req.GetEndTime()), req.GetAccount()))
	return [8]byte(sum[:8])
}

func writeToken(seq int64, bound [8]byte) string {
	raw := binary.BigEndian.AppendUint64(bound[:], uint64(seq))
	return base64.RawURLEncoding.EncodeToString(raw)
}

func readToken(token string, bound [8]byte) (int64, error) {
	if token == "" {
		return 0, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(raw) != 16 || [8]byte(raw[:8]) != bound || raw[8] > 127 {
		return 0, errs.E(errs.Invalid, "RESUME_TOKEN", "the resume_token is not one of this export; begin without it").
			WithFields(errs.Field{Path: "resume_token", Problem: "must be one that this export gave"})
	}
	return int64(binary.BigEndian.Uint64(raw[8:])), nil
}

// maxLines is how many lines one settlement may have: what is remembered of each
// is small, but not nothing.
const maxLines = 1_000_000

// Reconcile compares a settlement with the ledger, line by line.
func (s *Server) Reconcile(stream grpc.BidiStreamingServer[paymentv1.ReconcileRequest, paymentv1.ReconcileResponse]) error {
	first, err := stream.Recv()
	if errors.Is(err, io.EOF) {
		return errs.E(errs.Invalid, "NO_PERIOD", "the first message must name the period; none came")
	}
	if err != nil {
		return err
	}
	period := first.GetPeriod()
	if period == nil {
		return errs.E(errs.Invalid, "NO_PERIOD", "the first message must name the period, not a line")
	}
	settled := store.PostingFilter{Start: period.GetStartTime().AsTime(), End: period.GetEndTime().AsTime(), Settled: true}
	seen := map[string]struct{}{}
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		line := req.GetLine()
		if line == nil {
			return errs.E(errs.Invalid, "SECOND_PERIOD", "the period is named once, by the first message")
		}
		if len(seen) == maxLines {
			return errs.E(errs.ResourceExhausted, "TOO_MANY_LINES", "a settlement has at most %d lines here; divide it by time", maxLines)
		}
		verdict, err := s.verdict(stream.Context(), line, seen)
		if err != nil {
			return err
		}
		if err := stream.Send(verdict); err != nil {
			return err
		}
	}
	return s.missing(stream, settled, seen)
}

// verdict compares one line with the ledger.
func (s *Server) verdict(ctx context.Context, line *paymentv1.SettlementLine, seen map[string]struct{}) (*paymentv1.ReconcileResponse, error) {
	out := &paymentv1.ReconcileResponse{
		LineNumber:        line.GetLineNumber(),
		ProviderReference: line.GetProviderReference(),
		SettledAmount:     line.GetAmount(),
	}
	l, known, err := s.Store.ByReference(ctx, line.GetProviderReference())
	if err != nil {
		return nil, err
	}
	if known {
		out.LedgerAmount, out.PaymentId, out.OrderId = settledAmount(l).Proto(), l.PaymentID, l.OrderID
	}
	_, again := seen[line.GetProviderReference()]
	seen[line.GetProviderReference()] = struct{}{}
	amount := payment.Money{Minor: line.GetAmount().GetMinorUnits(), Currency: line.GetAmount().GetCurrencyCode()}
	switch {
	case again:
		out.Verdict = paymentv1.ReconcileVerdict_RECONCILE_VERDICT_DUPLICATE
	case !known || l.Booking.Operation() != line.GetOperation():
		out.Verdict = paymentv1.ReconcileVerdict_RECONCILE_VERDICT_UNKNOWN_REFERENCE
	case settledAmount(l) != amount:
		out.Verdict = paymentv1.ReconcileVerdict_RECONCILE_VERDICT_AMOUNT_MISMATCH
	default:
		out.Verdict = paymentv1.ReconcileVerdict_RECONCILE_VERDICT_MATCHED
	}
	return out, nil
}

// settledAmount gives what a posting moved, whichever way.
func settledAmount(l store.Posting) payment.Money {
	m := l.Amount
	m.Minor = max(m.Minor, -m.Minor)
	return m
}

// missing sends what the ledger has in the period and the settlement had not.
func (s *Server) missing(stream grpc.BidiStreamingServer[paymentv1.ReconcileRequest, paymentv1.ReconcileResponse], f store.PostingFilter, seen map[string]struct{}) error {
	for {
		page, err := s.Store.Export(stream.Context(), f, ledgerPage)
		if err != nil {
			return err
		}
		for _, l := range page {
			if _, ok := seen[l.Reference]; ok {
				continue
			}
			if err := stream.Send(&paymentv1.ReconcileResponse{
				ProviderReference: l.Reference,
				Verdict:           paymentv1.ReconcileVerdict_RECONCILE_VERDICT_MISSING,
				LedgerAmount:      settledAmount(l).Proto(),
				PaymentId:         l.PaymentID,
				OrderId:           l.OrderID,
			}); err != nil {
				return err
			}
		}
		if len(page) < ledgerPage {
			return nil
		}
		f.After = page[len(page)-1].Seq
	}
}
