package sqldb

import (
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"time"
)

// plain turns an argument into nil, int64, float64, bool, string, []byte or
// time.Time, the only values both drivers see.
func plain(v any) (any, error) {
	switch x := v.(type) {
	case nil, int64, string, bool, float64, time.Time:
		return x, nil
	case []byte:
		if x == nil {
			return nil, nil
		}
		return x, nil
	case json.RawMessage:
		if x == nil {
			return nil, nil
		}
		return string(x), nil
	case int:
		return int64(x), nil
	case int32:
		return int64(x), nil
	case uint32:
		return int64(x), nil
	case *string:
		if x == nil {
			return nil, nil
		}
		return *x, nil
	case *int64:
		if x == nil {
			return nil, nil
		}
		return *x, nil
	case *time.Time:
		if x == nil {
			return nil, nil
		}
		return *x, nil
	}
	return plainSlow(v)
}

// plainSlow is plain for the rarer types.
func plainSlow(v any) (any, error) {
	rv := reflect.ValueOf(v)
	if val, ok := v.(driver.Valuer); ok {
		if rv.Kind() == reflect.Pointer && rv.IsNil() {
			return nil, nil
		}
		got, err := val.Value()
		if err != nil {
			return nil, fmt.Errorf("sqldb: argument of type %T: %w", v, err)
		}
		if _, again := got.(driver.Valuer); again {
			return nil, fmt.Errorf("sqldb: argument of type %T", v)
		}
		return plain(got)
	}
	switch rv.Kind() {
	case reflect.Pointer:
		if rv.IsNil() {
			return nil, nil
		}
		return plain(rv.Elem().Interface())
	case reflect.String:
		return rv.String(), nil
	case reflect.Bool:
		return rv.Bool(), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return rv.Int(), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		u := rv.Uint()
		if u > math.MaxInt64 {
			return nil, fmt.Errorf("sqldb: %d is too large for a 64-bit integer column", u)
		}
		return int64(u), nil
	case reflect.Float32, reflect.Float64:
		return rv.Float(), nil
	case reflect.Slice:
		if rv.Type().Elem().Kind() == reflect.Uint8 {
			return plain(rv.Bytes())
		}
	}
	return nil, fmt.Errorf("sqldb: cannot pass a %T to the database", v)
}

// cellKind is the type of a value that came from the database.
type cellKind uint8

const (
	cellNull cellKind = iota
	cellInt
	cellFloat
	cellBool
	cellString // in s
	cellText   // in b, to be copied
	cellBlob   // in b, to be copied
	cellTime   // in i, Unix microseconds
)

// cell is one value from the database, of either dialect.
type cell struct {
	kind cellKind
	i    int64
	f    float64
	s    string
	b    []byte
}

// text gives the cell as a string.
func (c *cell) text() string {
	switch c.kind {
	case cellString:
		return c.s
	case cellText, cellBlob:
		return string(c.b)
	case cellInt:
		return strconv.FormatInt(c.i, 10)
	case cellFloat:
		return strconv.FormatFloat(c.f, 'g', -1, 64)
	case cellBool:
		return strconv.FormatBool(c.i != 0)
	case cellTime:
		return time.UnixMicro(c.i).UTC().Format(time.RFC3339Nano)
	}
	return ""
}

// bytes gives a copy of the cell's bytes.
func (c *cell) bytes() []byte {
	if c.kind == cellText || c.kind == cellBlob {
		return append(make([]byte, 0, len(c.b)), c.b...)
	}
	return []byte(c.text())
}

// integer gives the cell as an integer; a sum on PostgreSQL comes as text.
func (c *cell) integer() (int64, error) {
	switch c.kind {
	case cellInt:
		return c.i, nil
	case cellBool:
		return c.i, nil
	case cellString, cellText:
		return strconv.ParseInt(c.text(), 10, 64)
	case cellFloat:
		if c.f == math.Trunc(c.f) && math.Abs(c.f) < 1<<53 {
			return int64(c.f), nil
		}
	}
	return 0, c.mismatch("an integer")
}

func (c *cell) boolean() (bool, error) {
	switch c.kind {
	case cellBool, cellInt:
		return c.i != 0, nil
	}
	return false, c.mismatch("a bool")
}

func (c *cell) float() (float64, error) {
	switch c.kind {
	case cellFloat:
		return c.f, nil
	case cellInt:
		return float64(c.i), nil
	case cellString, cellText:
		return strconv.ParseFloat(c.text(), 64)
	}
	return 0, c.mismatch("a float")
}

func (c *cell) time() (time.Time, error) {
	switch c.kind {
	case cellTime, cellInt:
		return time.UnixMicro(c.i).UTC(), nil
	}
	return time.Time{}, c.mismatch("a time")
}

// value gives the cell as a driver.Value.
func (c *cell) value() any {
	switch c.kind {
	case cellInt:
		return c.i
	case cellFloat:
		return c.f
	case cellBool:
		return c.i != 0
	case cellString, cellText:
		return c.text()
	case cellBlob:
		return c.bytes()
	case cellTime:
		return time.UnixMicro(c.i).UTC()
	}
	return nil
}

var cellNames = [...]string{"NULL", "an integer", "a float", "a bool", "text", "text", "bytes", "a time"}

func (c *cell) mismatch(want string) error {
	return fmt.Errorf("the column holds %s, not %s", cellNames[c.kind], want)
}

// assign stores the cell in dest, a pointer.
func (c *cell) assign(dest any) (err error) {
	if c.kind == cellNull {
		return assignNull(dest)
	}
	switch d := dest.(type) {
	case nil:
	case *string:
		*d = c.text()
	case *int64:
		*d, err = c.integer()
	case *[]byte:
		*d = c.bytes()
	case *time.Time:
		*d, err = c.time()
	case *bool:
		*d, err = c.boolean()
	case *int:
		var i int64
		i, err = c.integer()
		*d = int(i)
	case *float64:
		*d, err = c.float()
	case *json.RawMessage:
		*d = c.bytes()
	case *any:
		*d = c.value()
	case **string:
		s := c.text()
		*d = &s
	case **int64:
		var i int64
		i, err = c.integer()
		*d = &i
	case **time.Time:
		var t time.Time
		t, err = c.time()
		*d = &t
	case *sql.NullTime:
		d.Time, err = c.time()
		d.Valid = err == nil
	case *sql.NullBool:
		d.Bool, err = c.boolean()
		d.Valid = err == nil
	case sql.Scanner:
		err = d.Scan(c.value())
	default:
		err = c.assignSlow(dest)
	}
	return err
}

// assignSlow is assign for named types and rarer pointers.
func (c *cell) assignSlow(dest any) error {
	rv := reflect.ValueOf(dest)
	if rv.Kind() != reflect.Pointer || rv.IsNil() {
		return fmt.Errorf("cannot scan into %T", dest)
	}
	e := rv.Elem()
	switch e.Kind() {
	case reflect.Pointer:
		p := reflect.New(e.Type().Elem())
		if err := c.assign(p.Interface()); err != nil {
			return err
		}
		e.Set(p)
		return nil
	case reflect.String:
		e.SetString(c.text())
		return nil
	case reflect.Bool:
		v, err := c.boolean()
		e.SetBool(v)
		return err
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v, err := c.integer()
		if err == nil && e.OverflowInt(v) {
			return fmt.Errorf("%d does not fit into %T", v, dest)
		}
		e.SetInt(v)
		return err
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v, err := c.integer()
		if err == nil && (v < 0 || e.OverflowUint(uint64(v))) {
			return fmt.Errorf("%d does not fit into %T", v, dest)
		}
		e.SetUint(uint64(v))
		return err
	case reflect.Float32, reflect.Float64:
		v, err := c.float()
		e.SetFloat(v)
		return err
	case reflect.Slice:
		if e.Type().Elem().Kind() == reflect.Uint8 {
			e.SetBytes(c.bytes())
			return nil
		}
	}
	return fmt.Errorf("cannot scan into %T", dest)
}

// assignNull stores NULL, which only some destinations can hold.
func assignNull(dest any) error {
	switch d := dest.(type) {
	case nil:
		return nil
	case *[]byte:
		*d = nil
		return nil
	case *json.RawMessage:
		*d = nil
		return nil
	case *any:
		*d = nil
		return nil
	case sql.Scanner:
		return d.Scan(nil)
	}
	if rv := reflect.ValueOf(dest); rv.Kind() == reflect.Pointer && !rv.IsNil() {
		if e := rv.Elem(); e.Kind() == reflect.Pointer || e.Kind() == reflect.Slice {
			e.SetZero()
			return nil
		}
	}
	return fmt.Errorf("the column is NULL; scan it into a pointer to %T's element", dest)
}

// scanError says which column could not be scanned.
func scanError(i int, err error) error { return fmt.Errorf("sqldb: column %d: %w", i, err) }

// scanCount checks the number of destinations.
func scanCount(have, want int) error {
	if have == want {
		return nil
	}
	return fmt.Errorf("sqldb: the row has %d columns, but Scan was given %d destinations", have, want)
}

// valueRow is a row of plain values, as the callbacks of InsertNew get it.
type valueRow []any

// Scan implements Scanner.
func (r valueRow) Scan(dest ...any) error {
	if err := scanCount(len(r), len(dest)); err != nil {
		return err
	}
	for i, v := range r {
		c := valueCell(v)
		if err := c.assign(dest[i]); err != nil {
			return scanError(i, err)
		}
	}
	return nil
}

// valueCell gives the cell of a driver.Value.
func valueCell(v any) cell {
	switch x := v.(type) {
	case int64:
		return cell{kind: cellInt, i: x}
	case string:
		return cell{kind: cellString, s: x}
	case []byte:
		return cell{kind: cellBlob, b: x}
	case float64:
		return cell{kind: cellFloat, f: x}
	case bool:
		return cell{kind: cellBool, i: b2i(x)}
	case time.Time:
		return cell{kind: cellTime, i: x.UnixMicro()}
	}
	return cell{}
}

func b2i(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
