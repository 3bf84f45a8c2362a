package gateway

import (
	"bytes"
	"encoding/json"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
)

// compact removes the spaces that protojson puts in by chance.
func compact(t *testing.T, b []byte) string {
	t.Helper()
	var out bytes.Buffer
	if err := json.Compact(&out, b); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	return out.String()
}

// same holds the encoder against protojson.
func same(t *testing.T, e *encoder, m proto.Message) {
	t.Helper()
	want, err := marshalJSON.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	got, err := e.append(nil, m.ProtoReflect())
	if err != nil {
		t.Fatalf("%v: %v", m, err)
	}
	if g, w := compact(t, got), compact(t, want); g != w {
		t.Errorf("%s\ngot  %s\nwant %s", m.ProtoReflect().Descriptor().FullName(), g, w)
	}
}

func TestEveryMessageOfTheContractIsWrittenAsProtojsonDoes(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	e := &encoder{}
	types := 0
	protoregistry.GlobalTypes.RangeMessages(func(mt protoreflect.MessageType) bool {
		name := string(mt.Descriptor().FullName())
		if !strings.HasPrefix(name, "waybill.") && !strings.HasPrefix(name, "google.rpc.") {
			return true
		}
		types++
		same(t, e, mt.New().Interface())
		for range 10 {
			m := mt.New()
			fill(rng, m, 0)
			same(t, e, m.Interface())
		}
		return true
	})
	if types < 50 {
		t.Errorf("only %d types", types)
	}
}

func TestEveryKindOfFieldIsWrittenAsProtojsonDoes(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	md := everyKind(t)
	e := &encoder{}
	for range 300 {
		m := dynamicpb.NewMessage(md)
		fill(rng, m, 3)
		same(t, e, m)
	}
}

// everyKind makes a message with a field, a list and a map of every kind.
func everyKind(t *testing.T) protoreflect.MessageDescriptor {
	t.Helper()
	file := &descriptorpb.FileDescriptorProto{
		Name: proto.String("every.proto"), Package: proto.String("every"), Syntax: proto.String("proto3"),
		EnumType: []*descriptorpb.EnumDescriptorProto{{Name: proto.String("E"), Value: []*descriptorpb.EnumValueDescriptorProto{
			{Name: proto.String("ZERO"), Number: proto.Int32(0)}, {Name: proto.String("ONE"), Number: proto.Int32(1)},
		}}},
	}
	msg := &descriptorpb.DescriptorProto{Name: proto.String("M"), OneofDecl: []*descriptorpb.OneofDescriptorProto{{Name: proto.String("o")}}}
	var oneofs []*descriptorpb.FieldDescriptorProto
	number := int32(0)
	add := func(name string, kind descriptorpb.FieldDescriptorProto_Type, repeated bool, typeName string) *descriptorpb.FieldDescriptorProto {
		number++
		f := &descriptorpb.FieldDescriptorProto{Name: proto.String(name), Number: proto.Int32(number), Type: kind.Enum(), Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum()}
		if repeated {
			f.Label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum()
		}
		if typeName != "" {
			f.TypeName = proto.String(typeName)
		}
		return f
	}
	typeOf := map[descriptorpb.FieldDescriptorProto_Type]string{descriptorpb.FieldDescriptorProto_TYPE_ENUM: ".every.E", descriptorpb.FieldDescriptorProto_TYPE_MESSAGE: ".every.M"}
	for k := descriptorpb.FieldDescriptorProto_TYPE_DOUBLE; k <= descriptorpb.FieldDescriptorProto_TYPE_SINT64; k++ {
		if k == descriptorpb.FieldDescriptorProto_TYPE_GROUP {
			continue
		}
		name := strings.ToLower(strings.TrimPrefix(k.String(), "TYPE_"))
		oneof := add("in_"+name, k, false, typeOf[k])
		oneof.OneofIndex = proto.Int32(0)
		oneofs = append(oneofs, oneof)
		msg.Field = append(msg.Field, add("a_"+name, k, false, typeOf[k]), add("list_"+name, k, true, typeOf[k]))
		for _, keyKind := range []descriptorpb.FieldDescriptorProto_Type{
			descriptorpb.FieldDescriptorProto_TYPE_STRING, descriptorpb.FieldDescriptorProto_TYPE_INT64, descriptorpb.FieldDescriptorProto_TYPE_UINT32, descriptorpb.FieldDescriptorProto_TYPE_BOOL,
		} {
			entry := "By" + strings.ReplaceAll(keyKind.String()+k.String(), "_", "")
			key, value := add("key", keyKind, false, ""), add("value", k, false, typeOf[k])
			key.Number, value.Number = proto.Int32(1), proto.Int32(2)
			msg.NestedType = append(msg.NestedType, &descriptorpb.DescriptorProto{
				Name: proto.String(entry), Field: []*descriptorpb.FieldDescriptorProto{key, value}, Options: &descriptorpb.MessageOptions{MapEntry: proto.Bool(true)},
			})
			f := add("m"+strings.ToLower(entry), descriptorpb.FieldDescriptorProto_TYPE_MESSAGE, true, ".every.M."+entry)
			msg.Field = append(msg.Field, f)
		}
	}
	msg.Field = append(msg.Field, oneofs...)
	for _, n := range msg.NestedType { // a map field is named after its entry
		for _, f := range msg.Field {
			if strings.HasSuffix(f.GetTypeName(), "."+n.GetName()) {
				n.Name = proto.String(strings.ToUpper(f.GetName()[:1]) + f.GetName()[1:] + "Entry")
				f.TypeName = proto.String(".every.M." + n.GetName())
			}
		}
	}
	file.MessageType = []*descriptorpb.DescriptorProto{msg}
	fd, err := protodesc.NewFile(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	return fd.Messages().Get(0)
}

var texts = []string{"", "plain", "quote \" and \\ and / and <>&", "\b\f\n\r\t\x00\x1f\x7f", "\u2028 é 😀 \ufffd", "0"}

// fill sets fields at random.
func fill(rng *rand.Rand, m protoreflect.Message, depth int) {
	for i := range m.Descriptor().Fields().Len() {
		f := m.Descriptor().Fields().Get(i)
		if rng.IntN(3) == 0 || depth > 4 {
			continue
		}
		switch {
		case f.IsMap():
			for range rng.IntN(4) {
				m.Mutable(f).Map().Set(scalar(rng, f.MapKey()).MapKey(), one(rng, m.Mutable(f).Map().NewValue, f.MapValue(), depth))
			}
		case f.IsList():
			for range rng.IntN(3) {
				m.Mutable(f).List().Append(one(rng, m.Mutable(f).List().NewElement, f, depth))
			}
		default:
			m.Set(f, one(rng, func() protoreflect.Value { return m.NewField(f) }, f, depth))
		}
	}
}

func one(rng *rand.Rand, fresh func() protoreflect.Value, f protoreflect.FieldDescriptor, depth int) protoreflect.Value {
	if f.Message() == nil {
		return scalar(rng, f)
	}
	v := fresh()
	switch f.Message().FullName() {
	case "google.protobuf.Timestamp":
		return protoreflect.ValueOfMessage((&timestamppb.Timestamp{
			Seconds: rng.Int64N(4e9) - 1e9, Nanos: []int32{0, 5e8, 123456000, 123456789, 1}[rng.IntN(5)],
		}).ProtoReflect())
	case "google.protobuf.Any", "google.protobuf.FieldMask", "google.protobuf.Duration", "google.protobuf.Struct":
		return v
	}
	fill(rng, v.Message(), depth+1)
	return v
}

func scalar(rng *rand.Rand, f protoreflect.FieldDescriptor) protoreflect.Value {
	n := []int64{0, 1, -1, math.MaxInt32, math.MinInt32, math.MaxInt64, math.MinInt64, 1 << 53}[rng.IntN(8)]
	x := []float64{0, 1, -1.5, 1e-7, 1e21, 123456.789, math.NaN(), math.Inf(1), math.Inf(-1), 0.1, 1e-10, 3e100}[rng.IntN(12)]
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(n > 0)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(rng.IntN(f.Enum().Values().Len() + 1)))
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(texts[rng.IntN(len(texts))])
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(texts[rng.IntN(len(texts))]))
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(n))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(x))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(x)
	}
	return protoreflect.ValueOfInt64(n)
}

func TestWellKnownTypesAreWrittenAsProtojsonDoes(t *testing.T) {
	st, err := structpb.NewStruct(map[string]any{"a": 1.5, "b": []any{"x", nil, true}})
	if err != nil {
		t.Fatal(err)
	}
	e := &encoder{}
	for _, m := range []proto.Message{st, wrapperspb.Int64(5), wrapperspb.String("x"), timestamppb.New(timestamppb.Now().AsTime()), structpb.NewNullValue()} {
		same(t, e, m)
	}
}

func TestWhatHasNoJSONFormIsAnError(t *testing.T) {
	e := &encoder{}
	for name, m := range map[string]proto.Message{
		"invalid UTF-8":        &orderv1.Order{OrderId: "\xff"},
		"invalid UTF-8 nested": &orderv1.Order{Lines: []*orderv1.OrderLine{{Sku: "\xff"}}},
		"time before year 1":   &orderv1.Order{CreateTime: &timestamppb.Timestamp{Seconds: -1 << 40}},
	} {
		if _, err := e.append(nil, m.ProtoReflect()); err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := (protojson.MarshalOptions{}).Marshal(m); err == nil {
			t.Errorf("%s: protojson has no error", name)
		}
	}
}
