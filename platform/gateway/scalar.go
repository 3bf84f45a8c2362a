package gateway

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/waybill-dev/waybill/platform/internal/nearest"
)

// fieldSet remembers which fields of a message came; most messages have fewer than 64.
type fieldSet struct {
	low  uint64
	high map[int]bool
}

// add reports whether i is new.
func (s *fieldSet) add(i int) bool {
	if i < 64 {
		had := s.low&(1<<i) != 0
		s.low |= 1 << i
		return !had
	}
	if s.high[i] {
		return false
	}
	if s.high == nil {
		s.high = map[int]bool{}
	}
	s.high[i] = true
	return true
}

// isWide reports whether a kind of integer has 64 bits, and whether it has a sign.
func isWide(k protoreflect.Kind) (wide, signed bool) {
	switch k {
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return true, true
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return true, false
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return false, false
	}
	return false, true
}

func intName(wide bool) string {
	if wide {
		return "a whole number; in quotes if it is beyond 9007199254740992"
	}
	return "a whole number without quotes, fraction or exponent"
}

var plainInteger = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)

// exact is the largest number up to which every integer is one of JavaScript's.
const exact = 1 << 53

// checkInteger says what is wrong with the text of an integer, or nothing.
func checkInteger(text string, wide, signed, quotes bool) string {
	if !plainInteger.MatchString(text) {
		return "must be " + intName(wide)
	}
	bits := 32
	if wide {
		bits = 64
	}
	if !signed {
		n, err := strconv.ParseUint(text, 10, bits)
		switch {
		case err != nil:
			return "must be from 0 to " + strconv.FormatUint(math.MaxUint64>>(64-bits), 10)
		case wide && !quotes && n > exact:
			return "must be in quotes, since it is beyond 9007199254740992"
		}
		return ""
	}
	n, err := strconv.ParseInt(text, 10, bits)
	switch {
	case err != nil:
		return "must be from " + strconv.FormatInt(math.MinInt64>>(64-bits), 10) + " to " + strconv.FormatInt(math.MaxInt64>>(64-bits), 10)
	case wide && !quotes && (n > exact || n < -exact):
		return "must be in quotes, since it is beyond 9007199254740992"
	}
	return ""
}

// checkScalar says what is wrong with a query parameter's value, or nothing.
func checkScalar(f protoreflect.FieldDescriptor, text string) string {
	if !isText(text) {
		return "must be text in UTF-8 without the character NUL"
	}
	switch f.Kind() {
	case protoreflect.BoolKind:
		if text != "true" && text != "false" {
			return "must be true or false"
		}
	case protoreflect.EnumKind:
		if f.Enum().Values().ByName(protoreflect.Name(text)) == nil {
			return "must be " + enumNames(f.Enum())
		}
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		if n, err := strconv.ParseFloat(text, 64); err != nil || math.IsNaN(n) || math.IsInf(n, 0) {
			return "must be a number"
		}
	case protoreflect.MessageKind:
		if name := f.Message().FullName(); !isWrapper(f.Message()) && !validTextForm(name, text) {
			return "must be " + textForm(name)
		}
	case protoreflect.StringKind, protoreflect.BytesKind, protoreflect.GroupKind:
	default:
		wide, signed := isWide(f.Kind())
		return checkInteger(text, wide, signed, true)
	}
	return ""
}

// isWrapper reports whether a message is one that only makes a scalar absent.
func isWrapper(md protoreflect.MessageDescriptor) bool {
	return md.FullName().Parent() == "google.protobuf" && strings.HasSuffix(string(md.Name()), "Value") &&
		md.Name() != "Value" && md.Name() != "ListValue"
}

// isScalarMessage reports whether a message has the form of one text.
func isScalarMessage(md protoreflect.MessageDescriptor) bool {
	return isWrapper(md) || textForm(md.FullName()) != ""
}

// textForm says how a well-known message is written, "" for other messages.
func textForm(name protoreflect.FullName) string {
	switch name {
	case "google.protobuf.Timestamp":
		return `a time in RFC 3339 with its zone, as in "2026-01-31T12:00:00Z"`
	case "google.protobuf.Duration":
		return `a duration in seconds, as in "90s" or "1.5s"`
	case "google.protobuf.FieldMask":
		return `names of fields divided by commas, as in "name,price"`
	}
	return ""
}

var durationForm = regexp.MustCompile(`^-?[0-9]{1,12}(\.[0-9]{1,9})?s$`)

func validTextForm(name protoreflect.FullName, text string) bool {
	switch name {
	case "google.protobuf.Timestamp":
		t, err := time.Parse(time.RFC3339Nano, text)
		return err == nil && t.UTC().Year() >= 1 && t.UTC().Year() <= 9999
	case "google.protobuf.Duration":
		return durationForm.MatchString(text)
	}
	return true
}

// enumNames lists what an enum may be, as far as that is not too much.
func enumNames(ed protoreflect.EnumDescriptor) string {
	var names []string
	for i := range ed.Values().Len() {
		v := ed.Values().Get(i)
		if v.Number() != 0 || !strings.HasSuffix(string(v.Name()), "_UNSPECIFIED") {
			names = append(names, string(v.Name()))
		}
	}
	const most = 12
	if len(names) > most {
		names = append(names[:most], "…")
	}
	return "one of the names " + strings.Join(names, ", ")
}

// quoted writes a name somebody made up.
func quoted(name string) string { return strconv.Quote(shortened(name)) }

func shortened(name string) string {
	const most = 40
	if len(name) > most {
		return strings.ToValidUTF8(name[:most], "") + "…"
	}
	return name
}

// didYouMean names the field that was probably meant.
func didYouMean(md protoreflect.MessageDescriptor, name string) string {
	if len(name) > 64 {
		return ""
	}
	names := make([]string, md.Fields().Len())
	for i := range names {
		names[i] = string(md.Fields().Get(i).Name())
	}
	if best, ok := nearest.Name(name, names); ok {
		return "; did you mean " + strconv.Quote(best) + "?"
	}
	return ""
}
