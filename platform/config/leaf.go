package config

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/telemetry"
)

// A leaf is one value of the struct.
type leaf struct {
	key    string // dotted, snake_case
	help   string
	short  string
	secret bool
	value  reflect.Value
}

func (l leaf) flag() string { return strings.NewReplacer(".", "-", "_", "-").Replace(l.key) }
func (l leaf) env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(l.key, ".", "_"))
}

func (l leaf) dotted() string { return l.key }

var (
	typeDuration = reflect.TypeFor[time.Duration]()
	typeSecret   = reflect.TypeFor[telemetry.Secret]()
	typeText     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// isText reports whether v is read by its own UnmarshalText.
func isText(t reflect.Type) bool { return reflect.PointerTo(t).Implements(typeText) }

// mustLeaves describes the struct dst points to; see Bind for why it panics.
func mustLeaves(dst any) []leaf {
	v := reflect.ValueOf(dst)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		panic(fmt.Sprintf("config: %T is no pointer to a struct", dst))
	}
	var out []leaf
	collect(v.Elem(), "", &out)
	seen := map[string]string{}
	for _, l := range out {
		// Two keys that differ only in . and _ would share a variable.
		if other, dup := seen[l.env()]; dup {
			panic(fmt.Sprintf("config: %s and %s of %T share the variable %s", other, l.key, dst, l.env()))
		}
		seen[l.env()] = l.key
	}
	return out
}

func collect(v reflect.Value, prefix string, out *[]leaf) {
	for i := range v.NumField() {
		f, fv := v.Type().Field(i), v.Field(i)
		key := f.Tag.Get("key")
		if key == "-" || !f.IsExported() && !f.Anonymous {
			continue
		}
		if key == "" {
			key = snake(f.Name)
		}
		if fv.Kind() == reflect.Struct && !isText(f.Type) {
			if f.Anonymous {
				collect(fv, prefix, out)
			} else {
				collect(fv, prefix+key+".", out)
			}
			continue
		}
		l := leaf{key: prefix + key, help: f.Tag.Get("help"), short: f.Tag.Get("short"), value: fv}
		l.secret = f.Tag.Get("secret") == "true" || f.Type == typeSecret
		if l.help == "" {
			panic(fmt.Sprintf("config: %s of %s has no help", f.Name, v.Type()))
		}
		if !supported(f.Type) {
			panic(fmt.Sprintf("config: %s of %s has the type %s, which cannot be set", f.Name, v.Type(), f.Type))
		}
		*out = append(*out, l)
	}
}

func supported(t reflect.Type) bool {
	if isText(t) {
		return true
	}
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Float64:
		return true
	case reflect.Slice:
		return t.Elem().Kind() == reflect.String
	case reflect.Map:
		return t.Key().Kind() == reflect.String && t.Elem().Kind() == reflect.String
	}
	return false
}

// snake turns a Go name into snake_case: OTLPEndpoint is otlp_endpoint.
func snake(name string) string {
	rs := []rune(name)
	var b strings.Builder
	for i, r := range rs {
		if unicode.IsUpper(r) && i > 0 && (!unicode.IsUpper(rs[i-1]) || i+1 < len(rs) && unicode.IsLower(rs[i+1])) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// setText sets the leaf from the text of a variable or a flag; "a,b" is a list
// and "k=v,l=w" a map.
func (l leaf) setText(text string) error {
	v, err := parse(l.value.Type(), text)
	if err != nil {
		return hideIn(err, l, text)
	}
	l.value.Set(v)
	return nil
}

// hideIn replaces an error that would show a secret.
func hideIn(err error, l leaf, text string) error {
	if l.secret && text != "" && strings.Contains(err.Error(), text) {
		return errors.New("the value has the wrong form (not shown: it is secret)")
	}
	return err
}

// setValue sets the leaf from a value of a file, which has a type already.
func (l leaf) setValue(in any) error {
	t := l.value.Type()
	switch x := in.(type) {
	case nil:
		return nil // "key:" without a value keeps the default
	case string:
		if isText(t) || t == typeDuration || t.Kind() == reflect.String {
			return l.setText(x)
		}
		return fmt.Errorf("must be %s, not text", kindName(t))
	case bool:
		if t.Kind() == reflect.Bool {
			l.value.SetBool(x)
			return nil
		}
	case []any:
		if t.Kind() != reflect.Slice || isText(t) {
			break
		}
		list := reflect.MakeSlice(t, 0, len(x))
		for i, e := range x {
			s, ok := e.(string)
			if !ok {
				return fmt.Errorf("item %d must be text, put it in quotes", i)
			}
			list = reflect.Append(list, reflect.ValueOf(s).Convert(t.Elem()))
		}
		l.value.Set(list)
		return nil
	case map[string]any:
		if t.Kind() != reflect.Map || isText(t) {
			break
		}
		m := reflect.MakeMap(t)
		for k, e := range x {
			s, ok := e.(string)
			if !ok {
				return fmt.Errorf("%s must be text, put it in quotes", k)
			}
			m.SetMapIndex(reflect.ValueOf(k).Convert(t.Key()), reflect.ValueOf(s).Convert(t.Elem()))
		}
		l.value.Set(m)
		return nil
	case int, int64, uint64, float64:
		switch {
		case t == typeDuration:
			return errors.New(`must be a duration with its unit, as in "5s" or "250ms"`)
		case isText(t) && t.Kind() == reflect.Int64, t.Kind() >= reflect.Int && t.Kind() <= reflect.Float64 && !isText(t):
			return l.setText(fmt.Sprint(x))
		}
		if t.Kind() == reflect.String {
			return errors.New("must be text, put it in quotes")
		}
	}
	return fmt.Errorf("must be %s, not %s", kindName(t), yamlName(in))
}

// parse makes a value of type t from text.
func parse(t reflect.Type, text string) (reflect.Value, error) {
	v := reflect.New(t).Elem()
	wrong := func() (reflect.Value, error) {
		return v, fmt.Errorf("must be %s, not %q", kindName(t), text)
	}
	switch {
	case isText(t):
		if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(text)); err != nil {
			return v, err
		}
		return v, nil
	case t == typeDuration:
		d, err := time.ParseDuration(text)
		if err != nil {
			return wrong()
		}
		v.SetInt(int64(d))
		return v, nil
	}
	switch t.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return wrong()
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, t.Bits())
		if err != nil {
			return wrong()
		}
		v.SetInt(n)
	case reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseUint(text, 10, t.Bits())
		if err != nil {
			return wrong()
		}
		v.SetUint(n)
	case reflect.Float64:
		n, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(n) || math.IsInf(n, 0) {
			return wrong()
		}
		v.SetFloat(n)
	case reflect.Slice:
		for _, s := range split(text) {
			v.Set(reflect.Append(v, reflect.ValueOf(s).Convert(t.Elem())))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(t))
		for _, s := range split(text) {
			k, e, ok := strings.Cut(s, "=")
			if !ok || k == "" {
				return wrong()
			}
			v.SetMapIndex(reflect.ValueOf(k).Convert(t.Key()), reflect.ValueOf(e).Convert(t.Elem()))
		}
	}
	return v, nil
}

// split cuts a list at its commas and leaves out what is empty.
func split(text string) []string {
	var out []string
	for s := range strings.SplitSeq(text, ",") {
		if s = strings.TrimSpace(s); s != "" {
			out = append(out, s)
		}
	}
	return out
}

// kindName says what a value must look like.
func kindName(t reflect.Type) string {
	switch {
	case t == typeDuration:
		return `a duration with its unit, as in "5s" or "250ms"`
	case isText(t):
		return "text of type " + t.Name()
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Float64:
		return "a number"
	case reflect.String:
		return "text"
	case reflect.Slice:
		return "a list of texts"
	case reflect.Map:
		return "name=value pairs"
	case reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return fmt.Sprintf("a whole number from 0 to %d", uint64(math.MaxUint64)>>(64-t.Bits()))
	}
	return fmt.Sprintf("a whole number from %d to %d", int64(math.MinInt64)>>(64-t.Bits()), int64(math.MaxInt64)>>(64-t.Bits()))
}

// yamlName says what was found in a file.
func yamlName(v any) string {
	switch v.(type) {
	case string:
		return "text"
	case bool:
		return "true or false"
	case []any:
		return "a list"
	case map[string]any:
		return "a section"
	case int, int64, uint64, float64:
		return "a number"
	}
	return "a " + fmt.Sprintf("%T", v)
}

// validator is what a struct implements to be asked after loading.
type validator interface{ Validate() error }

// validate asks every struct below v and collects all answers. An embedded struct
// is not asked itself: its Validate is promoted, or the outer one speaks for both.
func validate(v reflect.Value, prefix string, problems *[]errs.Field) {
	s := v
	if v.Kind() == reflect.Pointer {
		s = v.Elem()
	} else {
		v = v.Addr()
	}
	for i := range s.NumField() {
		f := s.Type().Field(i)
		if f.IsExported() && !f.Anonymous && f.Tag.Get("key") != "-" && f.Type.Kind() == reflect.Struct && !isText(f.Type) {
			key := f.Tag.Get("key")
			if key == "" {
				key = snake(f.Name)
			}
			validate(s.Field(i), prefix+key+".", problems)
		}
	}
	val, ok := v.Interface().(validator)
	if !ok {
		return
	}
	for _, err := range unjoin(val.Validate()) {
		var e *errs.Error
		if errors.As(err, &e) && len(e.Fields) > 0 {
			for _, f := range e.Fields {
				*problems = append(*problems, errs.Field{Path: prefix + f.Path, Problem: f.Problem})
			}
			continue
		}
		// "key: problem" names a key of this level; anything else is said of the level.
		if key, problem, ok := strings.Cut(err.Error(), ": "); ok && !strings.ContainsAny(key, " \t") {
			*problems = append(*problems, errs.Field{Path: prefix + key, Problem: problem})
			continue
		}
		path := strings.TrimSuffix(prefix, ".")
		if path == "" {
			path = "settings"
		}
		*problems = append(*problems, errs.Field{Path: path, Problem: err.Error()})
	}
}

// unjoin gives the parts of an error made by errors.Join.
func unjoin(err error) []error {
	if err == nil {
		return nil
	}
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		var out []error
		for _, e := range j.Unwrap() {
			out = append(out, unjoin(e)...)
		}
		return out
	}
	return []error{err}
}
