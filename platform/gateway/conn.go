package gateway

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/waybill-dev/waybill/platform/errs"
)

// conn stands before a service's channel and puts what a header says into the
// request, where grpc-gateway's handlers cannot.
type conn struct{ grpc.ClientConnInterface }

// Invoke makes one call.
func (c conn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	if in := callFrom(ctx); in != nil && in.idempotencyKey != "" && in.route != nil && in.route.requestID != nil {
		msg, ok := args.(proto.Message)
		if !ok {
			return errs.E(errs.Internal, "NO_MESSAGE", "the request is a %T", args)
		}
		if err := setRequestID(msg.ProtoReflect(), in.route.requestID, in.idempotencyKey); err != nil {
			return err
		}
	}
	return c.ClientConnInterface.Invoke(ctx, method, args, reply, opts...)
}

// setRequestID fills in request_id from the Idempotency-Key. Two keys that
// differ are an error: whichever were taken, the client would rely on the other.
func setRequestID(m protoreflect.Message, f protoreflect.FieldDescriptor, key string) error {
	switch m.Get(f).String() {
	case key:
	case "":
		m.Set(f, protoreflect.ValueOfString(key))
	default:
		const problem = "differs from the header Idempotency-Key; send one of them"
		return errs.E(errs.Invalid, "IDEMPOTENCY_KEY_AMBIGUOUS", "%s: %s", f.Name(), problem).
			WithFields(errs.Field{Path: string(f.Name()), Problem: problem})
	}
	return nil
}
