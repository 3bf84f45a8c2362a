package gateway

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/waybill-dev/waybill/platform/errs"
)

// maxDepth is how deep JSON may nest.
const maxDepth = 100

// violation is the first thing that is wrong with a body.
type violation struct {
	path    string // proto field path, "" for the body as a whole
	problem string
}

func (v *violation) error() error {
	if v.path == "" {
		return errs.E(errs.Invalid, "INVALID_JSON", "the body: %s", v.problem)
	}
	return errs.E(errs.Invalid, "INVALID_JSON", "%s: %s", v.path, v.problem).WithFields(errs.Field{Path: v.path, Problem: v.problem})
}

// checkJSON holds a body against the message it is to become. protojson alone
// would take "1", 1e3 and 1.0 for the integer 1, numbers for enums, and a string
// with NUL in it, and its errors do not say which field is meant. The fields names
// have their values, bound, from the path and must not have others here. It gives
// nil for a body that protojson then decodes.
func checkJSON(data []byte, md protoreflect.MessageDescriptor, names []pathField, bound []string) *violation {
	c := checker{data: data, names: names, bound: bound}
	c.space()
	if c.pos == len(data) {
		return &violation{problem: "is empty"}
	}
	if data[c.pos] != '{' {
		c.fail("must be a JSON object")
		return c.bad
	}
	if !c.message(md) {
		return c.bad
	}
	if c.space(); c.pos < len(data) {
		c.fail("has something after its end")
		return c.bad
	}
	return nil
}

// checker walks through JSON once. Its methods give false after the first problem.
type checker struct {
	data  []byte
	pos   int
	depth int
	path  []step
	names []pathField
	bound []string
	bad   *violation
}

// step is one step of a path: a name, or an index if the name is empty.
type step struct {
	name  string
	index int
}

// fail keeps the problem with the path to where it is.
func (c *checker) fail(format string, a ...any) bool {
	var b strings.Builder
	for i, s := range c.path {
		switch {
		case s.name == "":
			b.WriteString("[" + strconv.Itoa(s.index) + "]")
		case i > 0:
			b.WriteString("." + s.name)
		default:
			b.WriteString(s.name)
		}
	}
	c.bad = &violation{path: b.String(), problem: fmt.Sprintf(format, a...)}
	return false
}

func (c *checker) push(name string, index int) { c.path = append(c.path, step{name, index}) }
func (c *checker) pop()                        { c.path = c.path[:len(c.path)-1] }

func (c *checker) space() {
	for c.pos < len(c.data) {
		switch c.data[c.pos] {
		case ' ', '\t', '\n', '\r':
			c.pos++
		default:
			return
		}
	}
}

// next gives the next byte that is no space, 0 at the end.
func (c *checker) next() byte {
	c.space()
	if c.pos == len(c.data) {
		return 0
	}
	return c.data[c.pos]
}

// syntax reports what is not JSON.
func (c *checker) syntax(want string) bool {
	if c.pos >= len(c.data) {
		return c.fail("the JSON ends too early")
	}
	return c.fail("is not valid JSON: expected %s at byte %d", want, c.pos)
}

// enter counts the depth.
func (c *checker) enter() bool {
	if c.depth++; c.depth > maxDepth {
		c.path = c.path[:min(len(c.path), 3)]
		return c.fail("nests deeper than %d levels", maxDepth)
	}
	c.pos++
	return true
}

// object walks through an object; each gets every key with c at its value.
func (c *checker) object(each func(key string) bool) bool {
	if !c.enter() {
		return false
	}
	if c.next() == '}' {
		c.pos++
		c.depth--
		return true
	}
	for {
		if c.next() != '"' {
			return c.syntax("the name of a field in quotes")
		}
		key, ok := c.str()
		if !ok {
			return false
		}
		if c.next() != ':' {
			return c.syntax("a colon")
		}
		c.pos++
		c.space()
		if !each(key) {
			return false
		}
		switch c.next() {
		case ',':
			c.pos++
		case '}':
			c.pos++
			c.depth--
			return true
		default:
			return c.syntax("a comma or }")
		}
	}
}

// array walks through an array; each is called with c at every item.
func (c *checker) array(each func(i int) bool) bool {
	if !c.enter() {
		return false
	}
	if c.next() == ']' {
		c.pos++
		c.depth--
		return true
	}
	for i := 0; ; i++ {
		c.space()
		c.push("", i)
		if !each(i) {
			return false
		}
		c.pop()
		switch c.next() {
		case ',':
			c.pos++
		case ']':
			c.pos++
			c.depth--
			return true
		default:
			return c.syntax("a comma or ]")
		}
	}
}

// message walks through an object that is to become a message.
func (c *checker) message(md protoreflect.MessageDescriptor) bool {
	var seen fieldSet
	return c.object(func(key string) bool {
		f := fieldByName(md, key)
		if f == nil {
			return c.fail("unknown field %s%s", quoted(key), didYouMean(md, key))
		}
		c.push(string(f.Name()), 0)
		if !seen.add(f.Index()) {
			return c.fail("is given twice")
		}
		if len(c.path) == 1 && !c.agrees(string(f.Name())) {
			return c.fail("differs from the value in the path; leave it out of the body")
		}
		if !c.field(f) {
			return false
		}
		c.pop()
		return true
	})
}

// agrees reports whether a string that comes for a field is the one from the path.
func (c *checker) agrees(name string) bool {
	i := slices.IndexFunc(c.names, func(f pathField) bool { return f.name == name })
	if i < 0 {
		return true
	}
	at, want := *c, c.bound[i]
	if at.next() != '"' {
		return true // of another type, which is judged next
	}
	got, ok := at.str()
	return !ok || got == want
}

// field checks the value of a field.
func (c *checker) field(f protoreflect.FieldDescriptor) bool {
	if c.next() == 'n' && f.FullName().Parent() != "google.protobuf.Value" {
		return c.literal("null") // the same as leaving it out
	}
	switch {
	case f.IsMap():
		if c.next() != '{' {
			return c.wrong("an object")
		}
		var seen map[string]bool
		return c.object(func(key string) bool {
			c.push(shortened(key), 0)
			if seen[key] {
				return c.fail("is given twice")
			}
			if seen == nil {
				seen = map[string]bool{}
			}
			seen[key] = true
			if !c.single(f.MapValue()) {
				return false
			}
			c.pop()
			return true
		})
	case f.IsList():
		if c.next() != '[' {
			return c.wrong("an array")
		}
		return c.array(func(int) bool { return c.single(f) })
	}
	return c.single(f)
}

// single checks one value of a field: the field itself, an item or a map's value.
func (c *checker) single(f protoreflect.FieldDescriptor) bool {
	switch f.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return c.messageValue(f.Message())
	case protoreflect.StringKind:
		if c.next() != '"' {
			return c.wrong("text in quotes")
		}
		_, ok := c.str()
		return ok
	case protoreflect.BytesKind:
		if c.next() != '"' {
			return c.wrong("bytes in base64, in quotes")
		}
		_, ok := c.str()
		return ok
	case protoreflect.BoolKind:
		switch c.next() {
		case 't':
			return c.literal("true")
		case 'f':
			return c.literal("false")
		}
		return c.wrong("true or false")
	case protoreflect.EnumKind:
		if c.next() != '"' {
			return c.wrong(enumNames(f.Enum()))
		}
		name, ok := c.str()
		if !ok {
			return false
		}
		if f.Enum().Values().ByName(protoreflect.Name(name)) == nil {
			return c.fail("must be %s", enumNames(f.Enum()))
		}
		return true
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		if c.next() != '-' && (c.next() < '0' || c.next() > '9') {
			return c.wrong("a number")
		}
		_, ok := c.number()
		return ok
	}
	return c.integer(f.Kind())
}

// integer checks a token for an integer. 64 bits may come in quotes, since many
// languages cannot hold them in a number; without quotes they must be exact there too.
func (c *checker) integer(k protoreflect.Kind) bool {
	wide, signed := isWide(k)
	var text string
	quotes := false
	switch b := c.next(); {
	case b == '"' && wide:
		s, ok := c.str()
		if !ok {
			return false
		}
		text, quotes = s, true
	case b == '-' || b >= '0' && b <= '9':
		s, ok := c.number()
		if !ok {
			return false
		}
		text = s
	default:
		return c.wrong(intName(wide))
	}
	if problem := checkInteger(text, wide, signed, quotes); problem != "" {
		return c.fail("%s", problem)
	}
	return true
}

// messageValue checks a value that is to become a message, with the forms JSON has for well-known ones.
func (c *checker) messageValue(md protoreflect.MessageDescriptor) bool {
	switch name := md.FullName(); {
	case name == "google.protobuf.Timestamp", name == "google.protobuf.Duration", name == "google.protobuf.FieldMask":
		if c.next() != '"' {
			return c.wrong(textForm(name))
		}
		s, ok := c.str()
		if !ok {
			return false
		}
		if !validTextForm(name, s) {
			return c.fail("must be %s", textForm(name))
		}
		return true
	case isWrapper(md):
		return c.single(md.Fields().ByNumber(1))
	case name == "google.protobuf.Struct", name == "google.protobuf.Value", name == "google.protobuf.ListValue", name == "google.protobuf.Any":
		return c.any()
	}
	if c.next() != '{' {
		return c.wrong("an object")
	}
	return c.message(md)
}

// any checks JSON that has no descriptor.
func (c *checker) any() bool {
	switch b := c.next(); {
	case b == '{':
		var seen map[string]bool
		return c.object(func(key string) bool {
			c.push(shortened(key), 0)
			if seen[key] {
				return c.fail("is given twice")
			}
			if seen == nil {
				seen = map[string]bool{}
			}
			seen[key] = true
			ok := c.any()
			if ok {
				c.pop()
			}
			return ok
		})
	case b == '[':
		return c.array(func(int) bool { return c.any() })
	case b == '"':
		_, ok := c.str()
		return ok
	case b == 't':
		return c.literal("true")
	case b == 'f':
		return c.literal("false")
	case b == 'n':
		return c.literal("null")
	case b == '-' || b >= '0' && b <= '9':
		_, ok := c.number()
		return ok
	}
	return c.syntax("a value")
}

// wrong reports a value of the wrong type, or what is no value at all.
func (c *checker) wrong(want string) bool {
	switch b := c.next(); b {
	case 0:
		return c.syntax("a value")
	case '{', '[', '"', 't', 'f', 'n', '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		return c.fail("must be %s", want)
	}
	return c.syntax("a value")
}

func (c *checker) literal(word string) bool {
	if !strings.HasPrefix(string(c.data[c.pos:min(len(c.data), c.pos+len(word))]), word) {
		return c.syntax(word)
	}
	c.pos += len(word)
	return true
}

// number reads a number as JSON writes it.
func (c *checker) number() (string, bool) {
	from := c.pos
	digits := func() bool {
		at := c.pos
		for c.pos < len(c.data) && c.data[c.pos] >= '0' && c.data[c.pos] <= '9' {
			c.pos++
		}
		return c.pos > at
	}
	if c.data[c.pos] == '-' {
		c.pos++
	}
	zero := c.pos < len(c.data) && c.data[c.pos] == '0'
	at := c.pos
	if !digits() || zero && c.pos > at+1 {
		return "", c.syntax("a number without leading zeros")
	}
	if c.pos < len(c.data) && c.data[c.pos] == '.' {
		c.pos++
		if !digits() {
			return "", c.syntax("a digit")
		}
	}
	if c.pos < len(c.data) && c.data[c.pos]|0x20 == 'e' {
		c.pos++
		if c.pos < len(c.data) && (c.data[c.pos] == '+' || c.data[c.pos] == '-') {
			c.pos++
		}
		if !digits() {
			return "", c.syntax("a digit")
		}
	}
	return string(c.data[from:c.pos]), true
}

// str reads a string and holds it to what may become text: UTF-8, no NUL, no half of a surrogate pair.
func (c *checker) str() (string, bool) {
	from := c.pos
	c.pos++
	escaped := false
	for c.pos < len(c.data) {
		switch b := c.data[c.pos]; {
		case b == '"':
			raw := c.data[from : c.pos+1]
			c.pos++
			if !utf8.Valid(raw) {
				return "", c.fail("is not valid UTF-8")
			}
			if !escaped {
				return string(raw[1 : len(raw)-1]), true
			}
			var s string
			if err := json.Unmarshal(raw, &s); err != nil {
				return "", c.fail("is not a valid JSON string")
			}
			return s, true
		case b == '\\':
			escaped = true
			if !c.escape() {
				return "", false
			}
		case b < ' ':
			return "", c.fail("has a control character in it that must be escaped")
		default:
			c.pos++
		}
	}
	return "", c.syntax("a quote")
}

// escape steps over one escape sequence, or two that make a surrogate pair.
func (c *checker) escape() bool {
	if c.pos+1 >= len(c.data) {
		c.pos = len(c.data)
		return c.syntax("an escape")
	}
	switch c.data[c.pos+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		c.pos += 2
		return true
	case 'u':
	default:
		return c.syntax("an escape that JSON has")
	}
	r, ok := c.hex(c.pos)
	switch {
	case !ok:
		return c.syntax("four hexadecimal digits")
	case r == 0:
		return c.fail("must not contain the character NUL")
	case r >= 0xD800 && r < 0xDC00:
		if low, ok := c.hex(c.pos + 6); !ok || low < 0xDC00 || low > 0xDFFF {
			return c.fail("has half of a surrogate pair in it")
		}
		c.pos += 6
	case r >= 0xDC00 && r <= 0xDFFF:
		return c.fail("has half of a surrogate pair in it")
	}
	c.pos += 6
	return true
}

// hex reads the \uXXXX at a position.
func (c *checker) hex(at int) (uint64, bool) {
	if at+6 > len(c.data) || c.data[at] != '\\' || c.data[at+1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(c.data[at+2:at+6]), 16, 16)
	return n, err == nil
}
