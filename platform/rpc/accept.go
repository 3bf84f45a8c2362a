package rpc

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/idempotency"
)

// accept looks at a decoded request: the last part of the chain.
func (s *Server) accept(ctx context.Context, m *method, req any) (context.Context, error) {
	if m.foreign || m.forward {
		return ctx, nil
	}
	msg, ok := req.(proto.Message)
	if !ok {
		return ctx, fmt.Errorf("%s got a %T", m.name, req)
	}
	if m.keyed != nil {
		k, err := keyOf(ctx, m, msg)
		if err != nil {
			return ctx, err
		}
		ctx = idempotency.NewContext(ctx, k) // for the transaction that stores the answer
	}
	return ctx, s.validate(msg)
}

// validate holds the request against the rules of the contract and names every
// field that breaks one, never its value. Errors are Invalid.
func (s *Server) validate(msg proto.Message) error {
	err := s.rules.Validate(msg)
	if err == nil {
		return nil
	}
	var broken *protovalidate.ValidationError
	if !errors.As(err, &broken) {
		return fmt.Errorf("validating %s: %w", msg.ProtoReflect().Descriptor().FullName(), err)
	}
	e := &errs.Error{Kind: errs.Invalid, Reason: "INVALID_REQUEST"}
	var texts []string
	for _, v := range broken.Violations {
		f := errs.Field{Path: protovalidate.FieldPathString(v.Proto.GetField()), Problem: v.Proto.GetMessage()}
		e.Fields = append(e.Fields, f)
		if len(texts) < 3 {
			texts = append(texts, strings.TrimPrefix(f.Path+": "+f.Problem, ": "))
		}
	}
	e.Message = strings.Join(texts, "; ")
	if more := len(e.Fields) - len(texts); more > 0 {
		e.Message += fmt.Sprintf("; and %d more", more)
	}
	return e
}

// tryRules fails if a rule of the given messages, or of those within them, does
// not compile; otherwise the first request would find out.
func (s *Server) tryRules(inputs map[protoreflect.FullName]protoreflect.MessageDescriptor) error {
	seen := map[protoreflect.FullName]bool{}
	var try func(protoreflect.MessageDescriptor) error
	try = func(d protoreflect.MessageDescriptor) error {
		if seen[d.FullName()] {
			return nil
		}
		seen[d.FullName()] = true
		var broken *protovalidate.CompilationError
		if err := s.rules.Validate(dynamicpb.NewMessage(d)); errors.As(err, &broken) {
			return fmt.Errorf("%s: %w", d.FullName(), err)
		}
		for i := range d.Fields().Len() {
			f := d.Fields().Get(i)
			if f.IsMap() {
				f = f.MapValue()
			}
			if f.Message() != nil {
				if err := try(f.Message()); err != nil {
					return err
				}
			}
		}
		return nil
	}
	for _, d := range inputs {
		if err := try(d); err != nil {
			return err
		}
	}
	return nil
}

func keyOf(ctx context.Context, m *method, msg proto.Message) (idempotency.Key, error) {
	r := msg.ProtoReflect()
	key := r.Get(m.keyed).String()
	if err := checkKey(key); err != nil {
		return idempotency.Key{}, err
	}
	// The request is ours alone here, so it can do without its id for a moment.
	r.Clear(m.keyed)
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(msg)
	r.Set(m.keyed, protoreflect.ValueOfString(key))
	if err != nil {
		return idempotency.Key{}, fmt.Errorf("fingerprint: %w", err)
	}
	sum := sha256.Sum256(b)
	return idempotency.Key{Caller: callerName(ctx), Method: m.name, Value: key, Fingerprint: sum[:]}, nil
}

func checkKey(key string) error {
	var problem string
	switch {
	case key == "":
		problem = "is missing; send a fresh UUID (over REST: the Idempotency-Key header) and the same one when you repeat the call"
	case len(key) > 255:
		problem = "must have at most 255 characters"
	case strings.ContainsFunc(key, func(c rune) bool { return c < ' ' || c > '~' }):
		problem = "must be printable ASCII"
	default:
		return nil
	}
	return errs.E(errs.Invalid, "REQUEST_ID_INVALID", "%s %s", requestID, problem).WithFields(errs.Field{Path: requestID, Problem: problem})
}

// callerName tells callers apart; no two kinds of them can have the same name.
func callerName(ctx context.Context) string {
	c, ok := auth.FromContext(ctx)
	switch {
	case !ok:
		return "anonymous"
	case c.UserID != "":
		return "user:" + c.UserID
	}
	return "service:" + c.Service
}
