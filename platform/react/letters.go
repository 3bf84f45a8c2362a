package react

import (
	"context"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/listing"
	"github.com/waybill-dev/waybill/platform/outbox"
	"github.com/waybill-dev/waybill/platform/sqldb"
	opsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/ops/v1"
)

// selectLetters reads whole dead letters; its rows go to scanDeadLetter.
const selectLetters = `SELECT dead_letter_id, event_id, type, aggregate_id, stream, stream_seq, payload, reason, detail, attempts, cause, traceparent, created_at,
 class, subject, headers, first_at, redrive_at, redrive_by, redrive_reason FROM dead_letters`

// firstAt is when a dead letter failed first, also of one that an older program wrote.
const firstAt = "COALESCE(first_at, created_at)"

var letterList = listing.New(listing.Spec[*deadLetter]{
	Name: "dead_letters",
	Fields: map[string]listing.Field[*deadLetter]{
		"class":        {Column: "class", Type: listing.Enum, Values: classNames()},
		"type":         {Column: "type", Type: listing.String},
		"reason":       {Column: "reason", Type: listing.String},
		"aggregate_id": {Column: "aggregate_id", Type: listing.String},
		"event_id":     {Column: "event_id", Type: listing.String},
		"cause_id":     {Column: "cause", Type: listing.String},
		"stream":       {Column: "stream", Type: listing.String},
		"waiting":      {Column: "(redrive_at IS NOT NULL)", Type: listing.Bool},
		"attempts":     {Column: "attempts", Type: listing.Int, Sort: func(d *deadLetter) any { return d.attempts }},
		"first_time": {Column: firstAt, Type: listing.Time, Sort: func(d *deadLetter) any {
			if d.first.IsZero() {
				return d.last
			}
			return d.first
		}},
		"last_time": {Column: "created_at", Type: listing.Time, Sort: func(d *deadLetter) any { return d.last }},
	},
	Order: "last_time desc",
	Key:   "dead_letter_id",
	KeyOf: func(d *deadLetter) string { return d.id },
})

// classNames gives what filters call the classes.
func classNames() map[string]any {
	names := map[string]any{}
	for _, c := range []class{malformed, refused, exhausted, gaveUp} {
		names[string(c)], names["DEAD_LETTER_CLASS_"+string(c)] = string(c), string(c)
	}
	return names
}

// proto gives the dead letter as the contract has it, without payload and headers.
func (d *deadLetter) proto(service string) *opsv1.DeadLetter {
	p := &opsv1.DeadLetter{
		DeadLetterId: d.id, Service: service, Class: opsv1.DeadLetterClass(opsv1.DeadLetterClass_value["DEAD_LETTER_CLASS_"+string(d.class)]),
		Type: d.typ, AggregateId: d.aggregateID, EventId: d.eventID, CauseId: d.cause, Stream: d.stream, StreamSequence: d.seq, Subject: d.subject,
		PayloadSize: int64(len(d.payload)), Reason: d.reason, Detail: cut(d.detail), Attempts: d.attempts, LastTime: timestamppb.New(d.last),
	}
	if p.FirstTime = p.GetLastTime(); !d.first.IsZero() {
		p.FirstTime = timestamppb.New(d.first)
	}
	if !d.redrive.IsZero() {
		p.RedriveTime = timestamppb.New(d.redrive)
	}
	if sc := parseTrace(d.traceparent); sc.HasTraceID() {
		p.TraceId = sc.TraceID().String()
	}
	return p
}

// cut keeps the stack of a panic from filling a page.
func cut(detail string) string {
	const most = 4000
	if runes := []rune(detail); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return detail
}

// List reads one page of dead letters and the token of the next, "" on the last
// page. Errors about the query are Invalid.
func (l *DeadLetters) List(ctx context.Context, q listing.Query) ([]*opsv1.DeadLetter, string, error) {
	page, err := letterList.Parse(q)
	if err != nil {
		return nil, "", err
	}
	rows, err := sqldb.All(ctx, l.r.cfg.DB, selectLetters+" WHERE "+page.SQL, page.Args, scanDeadLetter)
	if err != nil {
		return nil, "", err
	}
	rows, next := letterList.Cut(page, rows)
	all := make([]*opsv1.DeadLetter, len(rows))
	for i, d := range rows {
		all[i] = d.proto(l.r.machine.name)
	}
	return all, next, nil
}

// Get reads a dead letter with its headers and, of an event whose type this build
// knows, what it says without what is sensitive. It fails with NotFound when there
// is none, or no more.
func (l *DeadLetters) Get(ctx context.Context, id string) (*opsv1.DeadLetter, error) {
	rows, err := sqldb.All(ctx, l.r.cfg.DB, selectLetters+" WHERE dead_letter_id = ?", []any{id}, scanDeadLetter)
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, noLetter(id)
	}
	p := rows[0].proto(l.r.machine.name)
	p.Headers, p.Payload = rows[0].headers, shown(rows[0])
	return p, nil
}

// shown gives a payload as JSON, nil if it cannot be told what of it is sensitive.
func shown(d *deadLetter) *structpb.Struct {
	m, ok := outbox.Harmless(d.typ, d.payload)
	if !ok || d.stream == "" {
		return nil
	}
	data, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	s := &structpb.Struct{}
	if err != nil || protojson.Unmarshal(data, s) != nil {
		return nil
	}
	return s
}

var actionList = listing.New(listing.Spec[*opsv1.DeadLetterAction]{
	Name: "dead_letter_actions",
	Fields: map[string]listing.Field[*opsv1.DeadLetterAction]{
		"dead_letter_id": {Column: "dead_letter_id", Type: listing.String},
		"deed":           {Column: "deed", Type: listing.Enum, Values: listing.EnumValues(opsv1.DeadLetterDeed(0).Descriptor())},
		"user_id":        {Column: "user_id", Type: listing.String},
		"type":           {Column: "type", Type: listing.String},
		"aggregate_id":   {Column: "aggregate_id", Type: listing.String},
		"event_id":       {Column: "event_id", Type: listing.String},
		"create_time": {Column: "created_at", Type: listing.Time, Sort: func(a *opsv1.DeadLetterAction) any {
			return a.GetCreateTime().AsTime()
		}},
	},
	Order: "create_time desc",
	Key:   "action_id",
	KeyOf: (*opsv1.DeadLetterAction).GetActionId,
})

// Actions reads one page of the record of what was done about dead letters, and the
// token of the next, "" on the last page. Errors about the query are Invalid.
func (l *DeadLetters) Actions(ctx context.Context, q listing.Query) ([]*opsv1.DeadLetterAction, string, error) {
	page, err := actionList.Parse(q)
	if err != nil {
		return nil, "", err
	}
	rows, err := sqldb.All(ctx, l.r.cfg.DB, `SELECT action_id, dead_letter_id, event_id, type, aggregate_id, deed, user_id, reason, outcome, created_at
 FROM dead_letter_actions WHERE `+page.SQL, page.Args, scanAction)
	if err != nil {
		return nil, "", err
	}
	rows, next := actionList.Cut(page, rows)
	return rows, next, nil
}

func scanAction(s sqldb.Scanner) (*opsv1.DeadLetterAction, error) {
	a := &opsv1.DeadLetterAction{}
	var deed int64
	var at time.Time
	err := s.Scan(&a.ActionId, &a.DeadLetterId, &a.EventId, &a.Type, &a.AggregateId, &deed, &a.UserId, &a.Reason, &a.Outcome, &at)
	a.Deed, a.CreateTime = opsv1.DeadLetterDeed(deed), timestamppb.New(at)
	return a, err
}
