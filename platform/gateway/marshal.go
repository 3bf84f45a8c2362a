package gateway

import (
	"bytes"
	"io"
	"reflect"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// Names are those of the contract, and what has its zero value is written out, so
// that a reader sees every field there is; messages that are absent stay absent.
var (
	marshalJSON   = protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}
	unmarshalJSON = protojson.UnmarshalOptions{DiscardUnknown: false, RecursionLimit: maxDepth}
)

// marshaler is how grpc-gateway reads and writes messages, whatever the headers ask for.
type marshaler struct{}

var _ runtime.Marshaler = marshaler{}

// other handles what is no message: fields of google.api.HttpBody and the like.
func other() *runtime.JSONPb {
	return &runtime.JSONPb{MarshalOptions: marshalJSON, UnmarshalOptions: unmarshalJSON}
}

// ContentType is JSON, always.
func (marshaler) ContentType(any) string { return "application/json" }

// Marshal writes a message.
func (marshaler) Marshal(v any) ([]byte, error) {
	if m, ok := v.(proto.Message); ok {
		return marshalJSON.MarshalAppend(make([]byte, 0, 512), m)
	}
	return other().Marshal(v)
}

// Unmarshal reads a message, strictly.
func (m marshaler) Unmarshal(data []byte, v any) error {
	return m.NewDecoder(bytes.NewReader(data)).Decode(v)
}

// NewEncoder writes messages to w.
func (m marshaler) NewEncoder(w io.Writer) runtime.Encoder {
	return runtime.EncoderFunc(func(v any) error {
		b, err := m.Marshal(v)
		if err == nil {
			_, err = w.Write(b)
		}
		return err
	})
}

// NewDecoder reads one message, which must be all there is; io.EOF says there is nothing.
func (m marshaler) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		data, err := readAll(r)
		if err != nil {
			return err
		}
		if len(data) == 0 {
			return io.EOF
		}
		if msg, ok := v.(proto.Message); ok {
			return unmarshalJSON.Unmarshal(data, msg)
		}
		// The field a body is for comes as a pointer to the pointer that holds the message.
		if p := reflect.ValueOf(v); p.Kind() == reflect.Pointer && p.Elem().Kind() == reflect.Pointer {
			fresh := reflect.New(p.Elem().Type().Elem())
			if msg, ok := fresh.Interface().(proto.Message); ok {
				if err := unmarshalJSON.Unmarshal(data, msg); err != nil {
					return err
				}
				p.Elem().Set(fresh)
				return nil
			}
		}
		return other().Unmarshal(data, v)
	})
}

// body is a body that was read already.
type body struct {
	data []byte
	at   int
}

// Read reads on.
func (b *body) Read(p []byte) (int, error) {
	if b.at == len(b.data) {
		return 0, io.EOF
	}
	n := copy(p, b.data[b.at:])
	b.at += n
	return n, nil
}

// Close does nothing.
func (b *body) Close() error { return nil }

// readAll does without a copy where it can.
func readAll(r io.Reader) ([]byte, error) {
	if b, ok := r.(*body); ok {
		rest := b.data[b.at:]
		b.at = len(b.data)
		return rest, nil
	}
	return io.ReadAll(r)
}
