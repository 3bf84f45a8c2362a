package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// flagValue is a leaf on the command line. It keeps what was said there until
// Load has applied the layers below it.
type flagValue struct {
	leaf   leaf
	parsed reflect.Value
	set    bool
}

// Set takes a value; lists and maps grow with every mention of the flag.
func (f *flagValue) Set(text string) error {
	v, err := parse(f.leaf.value.Type(), text)
	if err != nil {
		return err
	}
	switch {
	case f.set && v.Kind() == reflect.Slice && !isText(v.Type()):
		f.parsed = reflect.AppendSlice(f.parsed, v)
	case f.set && v.Kind() == reflect.Map && !isText(v.Type()):
		for _, k := range v.MapKeys() {
			f.parsed.SetMapIndex(k, v.MapIndex(k))
		}
	default:
		f.parsed = v
	}
	f.set = true
	return nil
}

// String gives the value, or the default as long as the flag was not set.
func (f *flagValue) String() string {
	v := f.parsed
	if !f.set {
		v = f.leaf.value
	}
	if !v.IsValid() { // pflag asks a zero flagValue whether a default is zero
		return ""
	}
	return text(v)
}

// Type names the value in the usage text.
func (f *flagValue) Type() string {
	t := f.leaf.value.Type()
	switch {
	case t == typeDuration:
		return "duration"
	case isText(t):
		return strings.ToLower(t.Name())
	}
	switch t.Kind() {
	case reflect.Slice:
		return "list"
	case reflect.Map:
		return "name=value"
	}
	return t.Kind().String()
}

// text writes a value as parse reads it.
func text(v reflect.Value) string {
	switch {
	case v.Type() == typeDuration:
		return shortDuration(time.Duration(v.Int()))
	case isText(v.Type()):
		return fmt.Sprint(v.Interface())
	}
	switch v.Kind() {
	case reflect.Slice:
		items := make([]string, v.Len())
		for i := range items {
			items[i] = v.Index(i).String()
		}
		return strings.Join(items, ",")
	case reflect.Map:
		var items []string
		for _, k := range v.MapKeys() {
			items = append(items, k.String()+"="+v.MapIndex(k).String())
		}
		slices.Sort(items)
		return strings.Join(items, ",")
	}
	return fmt.Sprint(v.Interface())
}

// shortDuration writes 1m0s as 1m.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
