package gateway

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// encoder writes messages as JSON, as protojson does with UseProtoNames and
// EmitDefaultValues, in a third of the time: most of a small answer's cost is its
// JSON. What is rare (well-known types other than Timestamp) protojson writes.
// Unlike protojson it puts no spaces in by chance, so equal messages give equal bytes.
type encoder struct {
	plans sync.Map // protoreflect.MessageDescriptor to *plan
}

// plan is what is known of a message type before there is a message.
type plan struct {
	fields []fieldPlan
	known  bool // a well-known type: leave it to protojson
	time   bool // google.protobuf.Timestamp
}

type fieldPlan struct {
	fd       protoreflect.FieldDescriptor
	key      []byte // with quotes and colon
	kind     protoreflect.Kind
	presence bool
	list     bool
	isMap    bool
}

// planOf gives the plan of a type, made at its first use.
func (e *encoder) planOf(md protoreflect.MessageDescriptor) *plan {
	if p, ok := e.plans.Load(md); ok {
		if p, ok := p.(*plan); ok {
			return p
		}
	}
	p := &plan{time: md.FullName() == "google.protobuf.Timestamp", known: md.FullName().Parent() == "google.protobuf"}
	for i := range md.Fields().Len() {
		f := md.Fields().Get(i)
		p.fields = append(p.fields, fieldPlan{
			fd: f, key: append(strconv.AppendQuote(nil, f.TextName()), ':'), kind: f.Kind(),
			presence: f.HasPresence(), list: f.IsList(), isMap: f.IsMap(),
		})
	}
	e.plans.Store(md, p)
	return p
}

// append adds a message to b. It fails on text that is not UTF-8 and on
// well-known messages without a JSON form, such as a time before year 1.
func (e *encoder) append(b []byte, m protoreflect.Message) ([]byte, error) {
	p := e.planOf(m.Descriptor())
	if p.known {
		if t, ok := m.Interface().(*timestamppb.Timestamp); ok && p.time && t.IsValid() {
			return appendTime(b, t.AsTime()), nil
		}
		return marshalJSON.MarshalAppend(b, m.Interface())
	}
	b = append(b, '{')
	first := true
	for i := range p.fields {
		f := &p.fields[i]
		if f.presence && !m.Has(f.fd) {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(b, f.key...)
		var err error
		if b, err = e.field(b, f, m.Get(f.fd)); err != nil {
			return b, err
		}
	}
	return append(b, '}'), nil
}

func (e *encoder) field(b []byte, f *fieldPlan, v protoreflect.Value) ([]byte, error) {
	switch {
	case f.list:
		return e.list(b, f, v.List())
	case f.isMap:
		return e.mapField(b, f, v.Map())
	}
	return e.value(b, f.fd, f.kind, v)
}

func (e *encoder) list(b []byte, f *fieldPlan, l protoreflect.List) ([]byte, error) {
	b = append(b, '[')
	for i := range l.Len() {
		if i > 0 {
			b = append(b, ',')
		}
		var err error
		if b, err = e.value(b, f.fd, f.kind, l.Get(i)); err != nil {
			return b, err
		}
	}
	return append(b, ']'), nil
}

func (e *encoder) mapField(b []byte, f *fieldPlan, m protoreflect.Map) ([]byte, error) {
	keys := make([]protoreflect.MapKey, 0, m.Len())
	m.Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
		keys = append(keys, k)
		return true
	})
	slices.SortFunc(keys, compareKeys)
	b = append(b, '{')
	for i, k := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		var err error
		if b, err = appendText(b, k.String()); err != nil {
			return b, fieldError(f.fd, err)
		}
		b = append(b, ':')
		if b, err = e.value(b, f.fd.MapValue(), f.fd.MapValue().Kind(), m.Get(k)); err != nil {
			return b, err
		}
	}
	return append(b, '}'), nil
}

// compareKeys orders numbers by size and texts by their bytes.
func compareKeys(x, y protoreflect.MapKey) int {
	switch a := x.Interface().(type) {
	case int32, int64:
		return cmp.Compare(x.Int(), y.Int())
	case uint32, uint64:
		return cmp.Compare(x.Uint(), y.Uint())
	case bool:
		switch {
		case a == y.Bool():
			return 0
		case a:
			return 1
		}
		return -1
	}
	return cmp.Compare(x.String(), y.String())
}

// value adds one value: a field, an item or a map's value.
func (e *encoder) value(b []byte, fd protoreflect.FieldDescriptor, k protoreflect.Kind, v protoreflect.Value) ([]byte, error) {
	switch k {
	case protoreflect.StringKind:
		b, err := appendText(b, v.String())
		if err != nil {
			return b, fieldError(fd, err)
		}
		return b, nil
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return e.append(b, v.Message())
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		b = append(b, '"')
		return append(strconv.AppendInt(b, v.Int(), 10), '"'), nil
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		b = append(b, '"')
		return append(strconv.AppendUint(b, v.Uint(), 10), '"'), nil
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return strconv.AppendInt(b, v.Int(), 10), nil
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return strconv.AppendUint(b, v.Uint(), 10), nil
	case protoreflect.BoolKind:
		return strconv.AppendBool(b, v.Bool()), nil
	case protoreflect.EnumKind:
		return appendEnum(b, fd.Enum(), v.Enum()), nil
	case protoreflect.BytesKind:
		b = append(b, '"')
		return append(base64.StdEncoding.AppendEncode(b, v.Bytes()), '"'), nil
	case protoreflect.FloatKind:
		return appendFloat(b, v.Float(), 32), nil
	case protoreflect.DoubleKind:
		return appendFloat(b, v.Float(), 64), nil
	}
	return b, fmt.Errorf("%s has a kind without a JSON form", fd.FullName())
}

func fieldError(fd protoreflect.FieldDescriptor, err error) error {
	return fmt.Errorf("%s: %w", fd.FullName(), err)
}

// appendEnum adds the name of a value, or its number if this program does not know it yet.
func appendEnum(b []byte, ed protoreflect.EnumDescriptor, n protoreflect.EnumNumber) []byte {
	if ed.FullName() == "google.protobuf.NullValue" {
		return append(b, "null"...)
	}
	if v := ed.Values().ByNumber(n); v != nil {
		return append(append(append(b, '"'), v.Name()...), '"')
	}
	return strconv.AppendInt(b, int64(n), 10)
}

// appendFloat writes as encoding/json does, and what is no number in quotes.
func appendFloat(b []byte, n float64, bits int) []byte {
	switch {
	case math.IsNaN(n):
		return append(b, `"NaN"`...)
	case math.IsInf(n, 1):
		return append(b, `"Infinity"`...)
	case math.IsInf(n, -1):
		return append(b, `"-Infinity"`...)
	}
	abs, format := math.Abs(n), byte('f')
	if abs != 0 && (bits == 64 && (abs < 1e-6 || abs >= 1e21) || bits == 32 && (float32(abs) < 1e-6 || float32(abs) >= 1e21)) {
		format = 'e'
	}
	b = strconv.AppendFloat(b, n, format, -1, bits)
	if l := len(b); format == 'e' && l >= 4 && b[l-4] == 'e' && b[l-3] == '-' && b[l-2] == '0' {
		b[l-2] = b[l-1] // e-09 is e-9
		b = b[:l-1]
	}
	return b
}

// appendTime writes RFC 3339 with 0, 3, 6 or 9 digits.
func appendTime(b []byte, t time.Time) []byte {
	layout := `"2006-01-02T15:04:05.000000000Z"`
	switch n := t.Nanosecond(); {
	case n == 0:
		layout = `"2006-01-02T15:04:05Z"`
	case n%1e6 == 0:
		layout = `"2006-01-02T15:04:05.000Z"`
	case n%1e3 == 0:
		layout = `"2006-01-02T15:04:05.000000Z"`
	}
	return t.UTC().AppendFormat(b, layout)
}

const hexDigits = "0123456789abcdef"

// appendText writes a string in quotes, and escapes what must be.
func appendText(b []byte, s string) ([]byte, error) {
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				return b, errors.New("text is not valid UTF-8")
			}
			i += n
			continue
		}
		if c >= ' ' && c != '"' && c != '\\' {
			i++
			continue
		}
		b = append(b, s[from:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\b':
			b = append(b, '\\', 'b')
		case '\f':
			b = append(b, '\\', 'f')
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
		}
		i++
		from = i
	}
	return append(append(b, s[from:]...), '"'), nil
}
