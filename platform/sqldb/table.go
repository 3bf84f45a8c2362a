package sqldb

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// A Type is what a column of a Table holds.
type Type uint8

// The types, with their columns on PostgreSQL and SQLite.
const (
	Text  Type = iota // text, TEXT
	Int               // bigint, integer or smallint; INTEGER
	Bytes             // bytea, BLOB
	Time              // timestamptz, INTEGER (Unix microseconds)
	Bool              // boolean, INTEGER
	JSON              // jsonb, TEXT; values are string, []byte or json.RawMessage
)

// A Column is one column of a Table. A nil value is allowed only when Nullable;
// elsewhere a nil []byte counts as empty.
type Column struct {
	Name     string
	Type     Type
	Nullable bool
}

// A Table describes a table to the bulk forms of Batch. Key names the columns of
// its primary key or of a unique index. Columns are those the program writes and
// reads: a column made by the database (an identity) is left out. Version names
// the column that every change of a row raises, for UpdateAt and Expect; "" if
// there is none. Make each Table once and pass its pointer, for its SQL is kept by
// pointer.
type Table struct {
	Name    string
	Key     []string
	Columns []Column
	Version string
}

// tableSQL is the SQL of a Table's bulk forms in one dialect.
type tableSQL struct {
	t         *Table
	key       []int // indexes of the key columns
	order     []int // SQLite's UPDATE takes the columns in this order
	insert    string
	insertNew string
	update    string
	load      string
	loadLock  string
	delete    string
	deleteAll string
	updateAt  string
	expect    string
	loadOne   string // SQLite's form for one key
	deleteOne string
	returning sync.Map // returningID -> string
	multi     [len(multiRows)]multiSQL
	updateMax string // UPDATE of multiRows[0] rows

	updateAtMax string
}

// multiSQL is an INSERT of several rows at once (SQLite).
type multiSQL struct {
	insert    string
	insertNew string
}

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

func quoteAll(names []string) string {
	var b strings.Builder
	for i, n := range names {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(quote(n))
	}
	return b.String()
}

// names gives the names of all columns.
func (t *Table) names() []string {
	out := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		out[i] = c.Name
	}
	return out
}

// index gives the position of a column, or -1.
func (t *Table) index(name string) int {
	return slices.IndexFunc(t.Columns, func(c Column) bool { return c.Name == name })
}

func newTableSQL(t *Table, d Dialect) (*tableSQL, error) {
	if t == nil || t.Name == "" || len(t.Columns) == 0 {
		return nil, fmt.Errorf("sqldb: a table needs a name and columns")
	}
	f := &tableSQL{t: t}
	for i, c := range t.Columns {
		if c.Name == "" || t.index(c.Name) != i {
			return nil, fmt.Errorf("sqldb: table %s: column %d has no name of its own", t.Name, i)
		}
		if !slices.Contains(t.Key, c.Name) {
			f.order = append(f.order, i)
		}
	}
	for _, k := range t.Key {
		i := t.index(k)
		if i < 0 {
			return nil, fmt.Errorf("sqldb: table %s: key column %s is not among the columns", t.Name, k)
		}
		if t.Columns[i].Nullable {
			return nil, fmt.Errorf("sqldb: table %s: key column %s is nullable", t.Name, k)
		}
		f.key = append(f.key, i)
	}
	if i := t.index(t.Version); t.Version != "" && (i < 0 || t.Columns[i].Type != Int) {
		return nil, fmt.Errorf("sqldb: table %s: version column %s is not a column of integers", t.Name, t.Version)
	}
	if d == Postgres {
		f.postgres()
	} else {
		f.order = append(f.order, f.key...)
		f.sqlite()
	}
	return f, nil
}

// needKey tells whether the table has a key, which all forms but INSERT want.
func (f *tableSQL) needKey() error {
	if len(f.key) == 0 {
		return fmt.Errorf("sqldb: table %s has no key", f.t.Name)
	}
	return nil
}

// needTextKey tells whether the key is one text column.
func (f *tableSQL) needTextKey() error {
	if len(f.key) != 1 || f.t.Columns[f.key[0]].Type != Text {
		return fmt.Errorf("sqldb: table %s: the key is not one text column", f.t.Name)
	}
	return nil
}

// needUpdate tells whether there is anything to update.
func (f *tableSQL) needUpdate() error {
	if err := f.needKey(); err != nil {
		return err
	}
	if f.update == "" {
		return fmt.Errorf("sqldb: table %s has nothing but its key to update", f.t.Name)
	}
	return nil
}

// needVersion tells whether the table can be updated and has a version.
func (f *tableSQL) needVersion() error {
	if err := f.needUpdate(); err != nil {
		return err
	}
	if f.t.Version == "" {
		return fmt.Errorf("sqldb: table %s has no version", f.t.Name)
	}
	return nil
}

// was is the column that rows of UpdateAt have after those of their table.
var was = Column{Name: "*was", Type: Int}

// column gives the i-th column, and was after the last.
func (t *Table) column(i int) *Column {
	if i == len(t.Columns) {
		return &was
	}
	return &t.Columns[i]
}

// insertReturning gives the INSERT that returns cols.
func (f *tableSQL) insertReturning(cols []string) string {
	return f.returns(f.insert, cols, nil)
}

// insertReturningMany gives the INSERT of several rows that returns cols and the
// key (SQLite).
func (f *tableSQL) insertReturningMany(form int, cols []string) string {
	return f.returns(f.multi[form].insert, cols, f.t.Key)
}

// returns gives insert with a RETURNING clause, made once.
func (f *tableSQL) returns(insert string, cols, more []string) string {
	id := returningID{len(insert), strings.Join(cols, "\x00")}
	if s, ok := f.returning.Load(id); ok {
		return s.(string)
	}
	s := insert + " RETURNING " + quoteAll(slices.Concat(cols, more))
	f.returning.Store(id, s)
	return s
}

// returningID names one INSERT with RETURNING; a table's INSERTs of different
// numbers of rows differ in length.
type returningID struct {
	size int
	cols string
}

var arrayTypes = [...]string{Text: "text[]", Int: "bigint[]", Bytes: "bytea[]", Time: "timestamptz[]", Bool: "boolean[]", JSON: "jsonb[]"}

func (f *tableSQL) postgres() {
	t := f.t
	table, cols := quote(t.Name), quoteAll(t.names())
	arrays := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		arrays[i] = "$" + strconv.Itoa(i+1) + "::" + arrayTypes[c.Type]
	}
	f.insert = "INSERT INTO " + table + " (" + cols + ") SELECT * FROM unnest(" + strings.Join(arrays, ", ") + ")"
	if len(f.key) == 0 {
		return
	}
	key := quoteAll(t.Key)
	f.insertNew = f.insert + " ON CONFLICT (" + key + ") DO NOTHING RETURNING " + key
	f.load = "SELECT " + cols + " FROM " + table + " WHERE " + quote(t.Key[0]) + " = ANY($1::text[]) ORDER BY " + quote(t.Key[0]) + ` COLLATE "C"`
	f.loadLock = f.load + " FOR UPDATE"
	f.delete = "DELETE FROM " + table + " WHERE " + quote(t.Key[0]) + " = ANY($1::text[]) RETURNING " + quote(t.Key[0])
	f.deleteAll = "WITH u AS (" + f.delete + ")" + allOrNothing
	if len(f.order) == 0 {
		return
	}
	var set, match []string
	for _, i := range f.order {
		n := quote(t.Columns[i].Name)
		set = append(set, n+" = v."+n)
	}
	for _, k := range t.Key {
		match = append(match, "t."+quote(k)+" = v."+quote(k))
	}
	update := "WITH u AS (UPDATE " + table + " AS t SET " + strings.Join(set, ", ") + " FROM unnest("
	f.update = update + strings.Join(arrays, ", ") + ") AS v(" + cols + ") WHERE " + strings.Join(match, " AND ") + " RETURNING 1)" + allOrNothing
	if t.Version == "" {
		return
	}
	versions := ", $" + strconv.Itoa(len(t.Columns)+1) + "::bigint[]"
	version, before := quote(t.Version), quote(was.Name)
	f.updateAt = update + strings.Join(arrays, ", ") + versions + ") AS v(" + cols + ", " + before + ") WHERE " + strings.Join(match, " AND ") +
		" AND t." + version + " = v." + before + " RETURNING 1)" + allOrNothing
	f.expect = "SELECT 1/((count(*) = 0)::int) FROM unnest($1::text[], $2::bigint[]) AS v(id, version) LEFT JOIN LATERAL (SELECT " + version +
		" AS version FROM " + table + " WHERE " + key + " = v.id FOR UPDATE) AS t ON true WHERE coalesce(t.version, 0) <> v.version"
}

// allOrNothing follows a WITH whose rows must be as many as the first parameter has
// elements: the division fails when one is missing, so that a COMMIT sent along
// does not happen. run turns that into ErrMissing.
const allOrNothing = " SELECT 1/((count(*) = cardinality($1))::int) FROM u"

func (f *tableSQL) sqlite() {
	t := f.t
	table, cols := quote(t.Name), quoteAll(t.names())
	one := "(" + strings.Repeat("?, ", len(t.Columns)-1) + "?)"
	head := "INSERT INTO " + table + " (" + cols + ") VALUES "
	f.insert = head + one
	for i, n := range multiRows {
		f.multi[i].insert = head + strings.Repeat(one+", ", n-1) + one
	}
	if len(f.key) == 0 {
		return
	}
	key := quoteAll(t.Key)
	conflict := " ON CONFLICT (" + key + ") DO NOTHING"
	f.insertNew = f.insert + conflict
	for i := range multiRows {
		f.multi[i].insertNew = f.multi[i].insert + conflict + " RETURNING " + key
	}
	first := quote(t.Key[0])
	f.loadOne = "SELECT " + cols + " FROM " + table + " WHERE " + first + " = ?"
	f.load = "SELECT " + cols + " FROM " + table + " WHERE " + first + " IN (SELECT value FROM json_each(?)) ORDER BY " + first
	f.deleteOne = "DELETE FROM " + table + " WHERE " + first + " = ?"
	f.delete = "DELETE FROM " + table + " WHERE " + first + " IN (SELECT value FROM json_each(?)) RETURNING " + first
	if len(f.order) == len(f.key) {
		return
	}
	var set, setMany, match, matchMany []string
	for _, i := range f.order[:len(f.order)-len(f.key)] {
		n := quote(t.Columns[i].Name)
		set = append(set, n+" = ?")
		setMany = append(setMany, n+" = v.column"+strconv.Itoa(i+1))
	}
	for j, k := range t.Key {
		match = append(match, quote(k)+" = ?")
		matchMany = append(matchMany, "t."+quote(k)+" = v.column"+strconv.Itoa(f.key[j]+1))
	}
	f.update = "UPDATE " + table + " SET " + strings.Join(set, ", ") + " WHERE " + strings.Join(match, " AND ")
	many := func(one, match string) string {
		return "UPDATE " + table + " AS t SET " + strings.Join(setMany, ", ") + " FROM (VALUES " +
			strings.Repeat(one+", ", multiRows[0]-1) + one + ") AS v WHERE " + match
	}
	f.updateMax = many(one, strings.Join(matchMany, " AND "))
	if t.Version == "" {
		return
	}
	version := quote(t.Version)
	f.updateAt = f.update + " AND " + version + " = ?"
	f.updateAtMax = many(strings.TrimSuffix(one, ")")+", ?)", strings.Join(matchMany, " AND ")+" AND t."+version+" = v.column"+strconv.Itoa(len(t.Columns)+1))
	f.expect = "SELECT " + version + " FROM " + table + " WHERE " + first + " = ?"
}
