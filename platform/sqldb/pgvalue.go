package sqldb

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// epoch2000 is where PostgreSQL's microseconds begin, in Unix microseconds.
const epoch2000 = 946684800000000

// encoder writes parameters in PostgreSQL's wire formats into one buffer. It
// knows the few types of this package, so an array of a column costs one pass
// and no memory per row.
type encoder struct {
	buf     []byte
	ends    []int // end of each parameter in buf; start is the previous end
	null    []bool
	formats []int16
	values  [][]byte
}

func (e *encoder) reset() {
	e.buf, e.ends, e.null, e.formats = e.buf[:0], e.ends[:0], e.null[:0], e.formats[:0]
}

// done ends the parameter being written.
func (e *encoder) done(format int16, null bool) {
	e.ends = append(e.ends, len(e.buf))
	e.null = append(e.null, null)
	e.formats = append(e.formats, format)
}

// params gives the values and formats of the parameters from the first to before
// the last; the values are good until the next call.
func (e *encoder) params(from, to int) ([][]byte, []int16) {
	e.values = e.values[:0]
	start := 0
	if from > 0 {
		start = e.ends[from-1]
	}
	for i := from; i < to; i++ {
		if e.null[i] {
			e.values = append(e.values, nil)
		} else if start == e.ends[i] {
			e.values = append(e.values, []byte{}) // a slice of a buffer not made yet would be nil, which is NULL
		} else {
			e.values = append(e.values, e.buf[start:e.ends[i]:e.ends[i]])
		}
		start = e.ends[i]
	}
	return e.values, e.formats[from:to]
}

// args writes the arguments of one statement.
func (e *encoder) args(oids []uint32, args []any) error {
	if len(oids) != len(args) {
		return fmt.Errorf("sqldb: the statement has %d parameters, but was given %d arguments", len(oids), len(args))
	}
	for i, a := range args {
		v, err := plain(a)
		if err != nil {
			return err
		}
		e.arg(oids[i], v)
	}
	return nil
}

// arg writes one argument: binary for the usual pairs of types, otherwise as
// text, which the server parses as whatever the parameter is.
func (e *encoder) arg(oid uint32, v any) {
	switch x := v.(type) {
	case nil:
		e.done(0, true)
		return
	case string:
		e.buf = append(e.buf, x...)
		if oid == pgtype.ByteaOID {
			e.done(1, false)
			return
		}
	case []byte:
		e.buf = append(e.buf, x...)
		if oid == pgtype.ByteaOID {
			e.done(1, false)
			return
		}
	case int64:
		if oid == pgtype.Int8OID {
			e.buf = binary.BigEndian.AppendUint64(e.buf, uint64(x))
			e.done(1, false)
			return
		}
		e.buf = strconv.AppendInt(e.buf, x, 10)
	case bool:
		e.buf = strconv.AppendBool(e.buf, x)
	case float64:
		e.buf = strconv.AppendFloat(e.buf, x, 'g', -1, 64)
	case time.Time:
		if oid == pgtype.TimestamptzOID {
			e.buf = binary.BigEndian.AppendUint64(e.buf, uint64(x.UnixMicro()-epoch2000))
			e.done(1, false)
			return
		}
		e.buf = time.UnixMicro(x.UnixMicro()).UTC().AppendFormat(e.buf, "2006-01-02 15:04:05.999999Z07:00")
	}
	e.done(0, false)
}

var elementOIDs = [...]uint32{Text: pgtype.TextOID, Int: pgtype.Int8OID, Bytes: pgtype.ByteaOID, Time: pgtype.TimestamptzOID,
	Bool: pgtype.BoolOID, JSON: pgtype.JSONBOID}

// header begins an array of n elements.
func (e *encoder) header(oid uint32, n int) (nulls int) {
	e.buf = binary.BigEndian.AppendUint32(e.buf, 1) // dimensions
	nulls = len(e.buf)
	e.buf = binary.BigEndian.AppendUint32(e.buf, 0) // holds NULLs
	e.buf = binary.BigEndian.AppendUint32(e.buf, oid)
	e.buf = binary.BigEndian.AppendUint32(e.buf, uint32(n))
	e.buf = binary.BigEndian.AppendUint32(e.buf, 1) // first index
	return nulls
}

// keys writes a text array.
func (e *encoder) keys(keys []string) {
	e.header(pgtype.TextOID, len(keys))
	for _, k := range keys {
		e.sized(k)
	}
	e.done(1, false)
}

// ints writes a bigint array.
func (e *encoder) ints(values []int64) {
	e.header(pgtype.Int8OID, len(values))
	for _, v := range values {
		e.element(Int, v)
	}
	e.done(1, false)
}

// columns writes one array per column of the rows of o.
func (e *encoder) columns(o *op, rows [][]any) error {
	for i := range o.width() {
		if err := e.column(o.table, i, rows); err != nil {
			return err
		}
	}
	return nil
}

func (e *encoder) column(t *Table, i int, rows [][]any) error {
	c := t.column(i)
	nulls := e.header(elementOIDs[c.Type], len(rows))
	for _, row := range rows {
		v := row[i]
		if s, ok := v.(string); ok && c.Type == Text {
			e.sized(s)
			continue
		}
		v, err := columnValue(t, c, v)
		if err != nil {
			return err
		}
		if v == nil {
			e.buf = binary.BigEndian.AppendUint32(e.buf, math.MaxUint32)
			e.buf[nulls+3] = 1
			continue
		}
		e.element(c.Type, v)
	}
	e.done(1, false)
	return nil
}

// element writes one element; columnValue has seen to its type.
func (e *encoder) element(t Type, v any) {
	switch t {
	case Text:
		e.sized(v.(string))
	case Int:
		e.buf = binary.BigEndian.AppendUint32(e.buf, 8)
		e.buf = binary.BigEndian.AppendUint64(e.buf, uint64(v.(int64)))
	case Bytes:
		b := v.([]byte)
		e.buf = binary.BigEndian.AppendUint32(e.buf, uint32(len(b)))
		e.buf = append(e.buf, b...)
	case Time:
		e.buf = binary.BigEndian.AppendUint32(e.buf, 8)
		e.buf = binary.BigEndian.AppendUint64(e.buf, uint64(v.(time.Time).UnixMicro()-epoch2000))
	case Bool:
		e.buf = binary.BigEndian.AppendUint32(e.buf, 1)
		e.buf = append(e.buf, byte(b2i(v.(bool))))
	case JSON:
		s := v.(string)
		e.buf = binary.BigEndian.AppendUint32(e.buf, uint32(len(s)+1))
		e.buf = append(e.buf, 1) // version of jsonb's wire format
		e.buf = append(e.buf, s...)
	}
}

func (e *encoder) sized(s string) {
	e.buf = binary.BigEndian.AppendUint32(e.buf, uint32(len(s)))
	e.buf = append(e.buf, s...)
}

// columnValue gives v as the one Go type of its column, string for Text and
// JSON, or nil for NULL in a nullable column.
func columnValue(t *Table, c *Column, v any) (any, error) {
	v, err := plain(v)
	if err == nil {
		switch x := v.(type) {
		case nil:
			if c.Nullable {
				return nil, nil
			}
			if c.Type == Bytes {
				return []byte{}, nil
			}
			return nil, fmt.Errorf("sqldb: table %s, column %s: NULL, but the column is not nullable", t.Name, c.Name)
		case string:
			switch c.Type {
			case Text, JSON:
				return v, nil // not x, which would be put into a new interface
			case Bytes:
				return []byte(x), nil
			}
		case []byte:
			switch c.Type {
			case Bytes:
				return v, nil
			case Text, JSON:
				return string(x), nil
			}
		case int64:
			if c.Type == Int {
				return v, nil
			}
		case bool:
			if c.Type == Bool {
				return v, nil
			}
		case time.Time:
			if c.Type == Time {
				return v, nil
			}
		}
		err = fmt.Errorf("does not take a %T", v)
	}
	return nil, fmt.Errorf("sqldb: table %s, column %s: %w", t.Name, c.Name, err)
}

// pgRow is a row in PostgreSQL's wire formats.
type pgRow struct {
	fields []pgconn.FieldDescription
	values [][]byte
}

// Scan implements Scanner.
func (r *pgRow) Scan(dest ...any) error {
	if err := scanCount(len(r.values), len(dest)); err != nil {
		return err
	}
	for i, d := range dest {
		c, err := decode(&r.fields[i], r.values[i])
		if err == nil {
			err = c.assign(d)
		}
		if err != nil {
			return scanError(i, err)
		}
	}
	return nil
}

// decode reads one value.
func decode(f *pgconn.FieldDescription, b []byte) (cell, error) {
	if b == nil {
		return cell{}, nil
	}
	if f.Format == 0 {
		return cell{kind: cellText, b: b}, nil
	}
	size := func(n int) error {
		if len(b) != n {
			return fmt.Errorf("a value of type %d has %d bytes", f.DataTypeOID, len(b))
		}
		return nil
	}
	switch f.DataTypeOID {
	case pgtype.ByteaOID:
		return cell{kind: cellBlob, b: b}, nil
	case pgtype.Int8OID:
		if err := size(8); err != nil {
			return cell{}, err
		}
		return cell{kind: cellInt, i: int64(binary.BigEndian.Uint64(b))}, nil
	case pgtype.Int4OID:
		if err := size(4); err != nil {
			return cell{}, err
		}
		return cell{kind: cellInt, i: int64(int32(binary.BigEndian.Uint32(b)))}, nil
	case pgtype.Int2OID:
		if err := size(2); err != nil {
			return cell{}, err
		}
		return cell{kind: cellInt, i: int64(int16(binary.BigEndian.Uint16(b)))}, nil
	case pgtype.BoolOID:
		if err := size(1); err != nil {
			return cell{}, err
		}
		return cell{kind: cellBool, i: int64(b[0])}, nil
	case pgtype.TimestamptzOID, pgtype.TimestampOID:
		if err := size(8); err != nil {
			return cell{}, err
		}
		us := int64(binary.BigEndian.Uint64(b))
		if us == math.MaxInt64 || us == math.MinInt64 {
			return cell{}, fmt.Errorf("infinity is not a time")
		}
		return cell{kind: cellTime, i: us + epoch2000}, nil
	case pgtype.Float8OID:
		if err := size(8); err != nil {
			return cell{}, err
		}
		return cell{kind: cellFloat, f: math.Float64frombits(binary.BigEndian.Uint64(b))}, nil
	case pgtype.Float4OID:
		if err := size(4); err != nil {
			return cell{}, err
		}
		return cell{kind: cellFloat, f: float64(math.Float32frombits(binary.BigEndian.Uint32(b)))}, nil
	case pgtype.JSONBOID:
		if len(b) == 0 || b[0] != 1 {
			return cell{}, fmt.Errorf("unknown version of jsonb")
		}
		return cell{kind: cellText, b: b[1:]}, nil
	case pgtype.UUIDOID:
		if err := size(16); err != nil {
			return cell{}, err
		}
		h := hex.EncodeToString(b)
		return cell{kind: cellString, s: h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]}, nil
	}
	return cell{}, fmt.Errorf("unexpected binary value of type %d", f.DataTypeOID)
}

// pgRows are rows kept in memory.
type pgRows struct {
	pgRow
	rows [][][]byte
}

// add copies the row that values point to.
func (r *pgRows) add(values [][]byte) {
	n := 0
	for _, v := range values {
		n += len(v)
	}
	buf, row := make([]byte, 0, n), make([][]byte, len(values))
	for i, v := range values {
		if v != nil {
			from := len(buf)
			buf = append(buf, v...)
			row[i] = buf[from:len(buf):len(buf)]
		}
	}
	r.rows = append(r.rows, row)
}

func (r *pgRows) next() (bool, error) {
	if len(r.rows) == 0 {
		return false, nil
	}
	r.values, r.rows = r.rows[0], r.rows[1:]
	return true, nil
}

func (r *pgRows) close() error { return nil }
