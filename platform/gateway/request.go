package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/waybill-dev/waybill/platform/errs"
)

// How JSON becomes messages and messages become JSON: names are those of the
// contract, and what has its zero value is written out, so that a reader sees
// every field there is; messages that are absent stay absent.
var (
	marshalJSON   = protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}
	unmarshalJSON = protojson.UnmarshalOptions{DiscardUnknown: false, RecursionLimit: maxDepth}
)

// request makes the message of a call, and refuses what the contract does not know.
func (r *route) request(c *call, req *http.Request, values []string) (proto.Message, error) {
	if err := r.check(c, req, values); err != nil {
		return nil, err
	}
	in := r.inType.New()
	if r.raw != nil {
		return in.Interface(), r.setRaw(c, in)
	}
	if err := r.setBody(c, in); err != nil {
		return nil, err
	}
	for i, f := range r.pathFields {
		if f.text != nil {
			in.Set(f.text, protoreflect.ValueOfString(values[i]))
		} else if err := runtime.PopulateFieldFromPath(in.Interface(), f.name, values[i]); err != nil {
			return nil, badField(f.name, "has a value of the wrong form")
		}
	}
	if req.URL.RawQuery != "" {
		none := utilities.NewDoubleArray(nil) // check has refused what is bound elsewhere
		if err := runtime.PopulateQueryParameters(in.Interface(), req.URL.Query(), none); err != nil {
			return nil, errs.E(errs.Invalid, "INVALID_QUERY", "the query: %s", cleaned(err.Error()))
		}
	}
	return in.Interface(), r.setHeaders(c, in)
}

// setRaw hands on the body byte by byte.
func (r *route) setRaw(c *call, in protoreflect.Message) error {
	in.Set(r.raw.field, protoreflect.ValueOfBytes(c.body))
	if r.raw.headerField == nil {
		return nil
	}
	switch v := c.sent[r.raw.header]; {
	case len(v) > 1 || len(v) == 1 && !isText(v[0]):
		return badHeader(r.raw.header, "HEADER_INVALID", "must be given once and be text")
	case len(v) == 1:
		in.Set(r.raw.headerField, protoreflect.ValueOfString(v[0]))
	}
	return nil
}

// setBody decodes the body, which check has found good.
func (r *route) setBody(c *call, in protoreflect.Message) error {
	if len(c.body) == 0 {
		return nil
	}
	target := in
	if r.bodyIn != nil {
		target = in.Mutable(r.bodyIn).Message()
	}
	if err := unmarshalJSON.Unmarshal(c.body, target.Interface()); err != nil {
		return errs.E(errs.Invalid, "INVALID_JSON", "the body: %s", cleaned(err.Error()))
	}
	if r.mask == nil {
		return nil
	}
	// The fields that a PATCH names are those it means; update_mask in the query may say otherwise.
	mask, err := runtime.FieldMaskFromRequestBody(bytes.NewReader(c.body), target.Interface())
	if err != nil {
		return errs.E(errs.Invalid, "INVALID_JSON", "the body: %s", cleaned(err.Error()))
	}
	in.Set(r.mask, protoreflect.ValueOfMessage(mask.ProtoReflect()))
	return nil
}

// setHeaders puts what headers say into the fields they stand for.
func (r *route) setHeaders(c *call, in protoreflect.Message) error {
	if c.lastEventID != "" && r.streaming {
		if r.resume == nil {
			return badHeader("Last-Event-ID", "NOT_RESUMABLE", "is of no use here: this stream cannot be resumed")
		}
		// It wins over a resume_token in the query: a browser that reconnects repeats the
		// URL of its first attempt, and only the header is of now.
		in.Set(r.resume, protoreflect.ValueOfString(c.lastEventID))
	}
	if c.idempotencyKey == "" || r.requestID == nil {
		return nil
	}
	switch in.Get(r.requestID).String() {
	case c.idempotencyKey:
	case "":
		in.Set(r.requestID, protoreflect.ValueOfString(c.idempotencyKey))
	default: // whichever were taken, the client would rely on the other
		const problem = "differs from the header Idempotency-Key; send one of them"
		return errs.E(errs.Invalid, "IDEMPOTENCY_KEY_AMBIGUOUS", "%s: %s", r.requestID.Name(), problem).
			WithFields(errs.Field{Path: string(r.requestID.Name()), Problem: problem})
	}
	return nil
}

// serveUnary makes a unary call and writes its answer. What a service sends as
// metadata stays inside.
func (g *Gateway) serveUnary(ctx context.Context, c *call, req *http.Request, in proto.Message) {
	out := c.route.outType.New()
	if err := c.route.conn.Invoke(ctx, c.route.rpc, in, out.Interface()); err != nil {
		g.writeError(c, req, ended(ctx, err))
		return
	}
	b, err := g.encoder.append(make([]byte, 0, 512), out)
	if err != nil {
		g.writeError(c, req, errs.Wrap(err, errs.Internal, "ENCODING", "encoding"))
		return
	}
	h := c.Header()
	h["Content-Type"] = jsonType
	h["Content-Length"] = []string{strconv.Itoa(len(b))}
	_, _ = c.Write(b)
}

// ended gives the error of ctx for a call that ended because ctx did: a channel in
// this process may then report only that there is no answer. A stream that was
// complete at that very moment is called cut, and its client comes back for nothing.
func ended(ctx context.Context, err error) error {
	if errors.Is(err, io.EOF) && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
