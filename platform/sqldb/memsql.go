package sqldb

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// What Memory understands of SQL:
//
//	SELECT column, … | count(*) FROM table [alias] [JOIN table alias ON a.x = b.y]
//	  [WHERE condition] [ORDER BY column, …] [LIMIT n]
//	DELETE FROM table [WHERE condition]
//	UPDATE table SET column = value, … [WHERE condition]
//
// with AND, OR, =, <>, <, <=, >, >=, ||, IN (…), = ANY(string_to_array(…, ',')),
// IS NULL, IS NOT NULL, columns, parameters, numbers and text. It is what the
// services' own reads and the platform's single statements need.
type memStmt struct {
	verb    string
	items   []memExpr // of SELECT; nil is count(*)
	count   bool
	from    memFrom
	join    *memFrom
	on      [2]memExpr
	set     []memSet
	where   memExpr
	orderBy []memExpr
	limit   memExpr
}

type memFrom struct{ table, alias string }

type memSet struct {
	col string
	to  memExpr
}

// memEnv is what an expression is evaluated in.
type memEnv struct {
	args   []any
	tables [2]*memTable
	alias  [2]string
	rows   [2]*memRow
}

type memExpr func(e *memEnv) (any, error)

func (m *Memory) stmt(sql string) (*memStmt, error) {
	if s := m.stmts[sql]; s != nil {
		return s, nil
	}
	p := &memParser{tokens: memTokens(sql)}
	s, err := p.statement()
	if err != nil {
		return nil, fmt.Errorf("sqldb: the database in memory does not understand %q: %w", sql, err)
	}
	m.stmts[sql] = s
	return s, nil
}

func memArgs(args []any) ([]any, error) {
	out := make([]any, len(args))
	for i, a := range args {
		p, err := plain(a)
		if err != nil {
			return nil, err
		}
		out[i] = p
	}
	return out, nil
}

// scan calls fn for each row of a table as the transaction sees it.
func (s *memSession) scan(t *memTable, fn func(r *memRow) error) error {
	if t == nil {
		return nil
	}
	for _, r := range t.rows {
		if r == nil {
			continue
		}
		if len(t.key) > 0 {
			if own, ok := s.mine[memLock{t.name, r.key}]; ok {
				if r = own; r == nil {
					continue
				}
			}
		}
		if err := fn(r); err != nil {
			return err
		}
	}
	for _, w := range s.wrote {
		if w.t != t || w.row == nil {
			continue
		}
		if len(t.key) > 0 {
			if _, there := t.at[w.key]; there || s.mine[memLock{t.name, w.key}] != w.row {
				continue
			}
		}
		if err := fn(w.row); err != nil {
			return err
		}
	}
	return nil
}

// matching calls fn with each row, or pair of rows, for which WHERE holds.
func (s *memSession) matching(st *memStmt, args []any, fn func(e *memEnv) error) error {
	e := &memEnv{args: args}
	e.tables[0], e.alias[0] = s.m.tables[st.from.table], st.from.alias
	test := func() error {
		if st.where != nil {
			ok, err := st.where(e)
			if yes, _ := ok.(bool); err != nil || !yes {
				return err
			}
		}
		return fn(e)
	}
	if st.join == nil {
		return s.scan(e.tables[0], func(r *memRow) error { e.rows[0] = r; return test() })
	}
	e.tables[1], e.alias[1] = s.m.tables[st.join.table], st.join.alias
	if e.tables[0] == nil || e.tables[1] == nil {
		return nil
	}
	return s.scan(e.tables[0], func(r *memRow) error {
		e.rows[0] = r
		return s.scan(e.tables[1], func(r *memRow) error {
			e.rows[1] = r
			a, err := st.on[0](e)
			if err != nil {
				return err
			}
			b, err := st.on[1](e)
			if err != nil || a == nil || compare(a, b) != 0 {
				return err
			}
			return test()
		})
	})
}

func (s *memSession) selectRows(sql string, args []any) ([]valueRow, error) {
	st, err := s.m.stmt(sql)
	if err != nil {
		return nil, err
	}
	if st.verb != "SELECT" {
		return nil, fmt.Errorf("sqldb: %q gives no rows", sql)
	}
	if args, err = memArgs(args); err != nil {
		return nil, err
	}
	type sorted struct {
		row valueRow
		by  []any
	}
	var found []sorted
	n := int64(0)
	err = s.matching(st, args, func(e *memEnv) error {
		n++
		if st.count {
			return nil
		}
		one := sorted{row: make(valueRow, len(st.items)), by: make([]any, len(st.orderBy))}
		for i, item := range st.items {
			if one.row[i], err = item(e); err != nil {
				return err
			}
		}
		for i, by := range st.orderBy {
			if one.by[i], err = by(e); err != nil {
				return err
			}
		}
		found = append(found, one)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if st.count {
		return []valueRow{{n}}, nil
	}
	slices.SortStableFunc(found, func(a, b sorted) int {
		for i := range a.by {
			if c := compare(a.by[i], b.by[i]); c != 0 {
				return c
			}
		}
		return 0
	})
	if st.limit != nil {
		v, err := st.limit(&memEnv{args: args})
		if limit, ok := v.(int64); err == nil && ok && int64(len(found)) > limit {
			found = found[:limit]
		}
	}
	rows := make([]valueRow, len(found))
	for i := range found {
		rows[i] = found[i].row
	}
	return rows, nil
}

func (s *memSession) exec(sql string, args []any) (int64, error) {
	st, err := s.m.stmt(sql)
	if err != nil {
		return 0, err
	}
	if args, err = memArgs(args); err != nil {
		return 0, err
	}
	var changed []memWrite
	err = s.matching(st, args, func(e *memEnv) error {
		w := memWrite{t: e.tables[0], key: e.rows[0].key}
		if st.verb == "UPDATE" {
			w.row = &memRow{key: w.key, seq: e.rows[0].seq, vals: slices.Clone(e.rows[0].vals)}
			for _, set := range st.set {
				i, ok := w.t.cols[set.col]
				if !ok {
					return fmt.Errorf("sqldb: %s has no column %s", w.t.name, set.col)
				}
				if w.row.vals[i], err = set.to(e); err != nil {
					return err
				}
			}
		}
		changed = append(changed, w)
		return nil
	})
	if err != nil {
		return 0, err
	}
	for _, w := range changed {
		if err := s.lock(w.t, w.key); err != nil {
			return 0, err
		}
		s.write(w.t, w.key, w.row)
	}
	return int64(len(changed)), nil
}

// memParser reads one statement.
type memParser struct {
	tokens []string
	marks  int
}

func memTokens(sql string) []string {
	var tokens []string
	for i := 0; i < len(sql); {
		c := sql[i]
		j := i + 1
		switch {
		case c == ' ' || c == '\n' || c == '\t':
			i++
			continue
		case c == '\'':
			for j < len(sql) && sql[j] != '\'' {
				j++
			}
			j++
		case word(c):
			for j < len(sql) && (word(sql[j]) || sql[j] == '.') {
				j++
			}
		case strings.IndexByte("<>|", c) >= 0:
			for j < len(sql) && strings.IndexByte("<>=|", sql[j]) >= 0 {
				j++
			}
		}
		tokens = append(tokens, sql[i:min(j, len(sql))])
		i = j
	}
	return tokens
}

func word(c byte) bool {
	return c == '_' || c == '-' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func (p *memParser) peek() string {
	if len(p.tokens) == 0 {
		return ""
	}
	return p.tokens[0]
}

func (p *memParser) next() string {
	t := p.peek()
	if t != "" {
		p.tokens = p.tokens[1:]
	}
	return t
}

// take takes the words if they come next.
func (p *memParser) take(words ...string) bool {
	if len(p.tokens) < len(words) {
		return false
	}
	for i, w := range words {
		if p.tokens[i] != w {
			return false
		}
	}
	p.tokens = p.tokens[len(words):]
	return true
}

func (p *memParser) want(words ...string) error {
	if !p.take(words...) {
		return fmt.Errorf("want %s at %q", strings.Join(words, " "), strings.Join(p.tokens, " "))
	}
	return nil
}

func (p *memParser) statement() (*memStmt, error) {
	s := &memStmt{verb: p.next()}
	var err error
	switch s.verb {
	case "SELECT":
		err = p.selected(s)
	case "DELETE":
		if err = p.want("FROM"); err == nil {
			s.from = p.from()
		}
	case "UPDATE":
		s.from = p.from()
		err = p.sets(s)
	default:
		err = fmt.Errorf("%s is none of SELECT, DELETE and UPDATE", s.verb)
	}
	if err == nil && p.take("WHERE") {
		s.where, err = p.or()
	}
	if err == nil && p.take("ORDER", "BY") {
		s.orderBy, err = p.list()
	}
	if err == nil && p.take("LIMIT") {
		s.limit, err = p.operand()
	}
	if err == nil && p.peek() != "" {
		err = fmt.Errorf("what is %q", strings.Join(p.tokens, " "))
	}
	return s, err
}

func (p *memParser) selected(s *memStmt) (err error) {
	if p.take("count", "(", "*", ")") {
		s.count = true
	} else if s.items, err = p.list(); err != nil {
		return err
	}
	if err := p.want("FROM"); err != nil {
		return err
	}
	s.from = p.from()
	if !p.take("JOIN") {
		return nil
	}
	join := p.from()
	s.join = &join
	if err := p.want("ON"); err != nil {
		return err
	}
	if s.on[0], err = p.operand(); err != nil {
		return err
	}
	if err := p.want("="); err != nil {
		return err
	}
	s.on[1], err = p.operand()
	return err
}

func (p *memParser) from() memFrom {
	f := memFrom{table: p.next()}
	switch p.peek() {
	case "", "JOIN", "ON", "WHERE", "ORDER", "LIMIT", "SET", ")":
	default:
		f.alias = p.next()
	}
	return f
}

func (p *memParser) sets(s *memStmt) error {
	if err := p.want("SET"); err != nil {
		return err
	}
	for {
		set := memSet{col: p.next()}
		err := p.want("=")
		if err == nil {
			set.to, err = p.operand()
		}
		if err != nil {
			return err
		}
		s.set = append(s.set, set)
		if !p.take(",") {
			return nil
		}
	}
}

func (p *memParser) list() ([]memExpr, error) {
	var all []memExpr
	for {
		x, err := p.operand()
		if err != nil {
			return nil, err
		}
		all = append(all, x)
		if !p.take(",") {
			return all, nil
		}
	}
}

func (p *memParser) or() (memExpr, error) { return p.chain("OR", true, p.and) }

func (p *memParser) and() (memExpr, error) { return p.chain("AND", false, p.comparison) }

// chain reads terms joined by a word; a term that is stop decides.
func (p *memParser) chain(joint string, stop bool, term func() (memExpr, error)) (memExpr, error) {
	first, err := term()
	terms := []memExpr{first}
	for err == nil && p.take(joint) {
		var t memExpr
		t, err = term()
		terms = append(terms, t)
	}
	if err != nil || len(terms) == 1 {
		return first, err
	}
	return func(e *memEnv) (any, error) {
		for _, t := range terms {
			v, err := t(e)
			if yes, _ := v.(bool); err != nil || yes == stop {
				return stop, err
			}
		}
		return !stop, nil
	}, nil
}

func (p *memParser) comparison() (memExpr, error) {
	if p.take("(") {
		x, err := p.or()
		if err == nil {
			err = p.want(")")
		}
		return x, err
	}
	a, err := p.operand()
	if err != nil {
		return nil, err
	}
	switch {
	case p.take("IS", "NOT", "NULL"):
		return func(e *memEnv) (any, error) { v, err := a(e); return v != nil, err }, nil
	case p.take("IS", "NULL"):
		return func(e *memEnv) (any, error) { v, err := a(e); return v == nil, err }, nil
	case p.take("IN", "("):
		all, err := p.list()
		if err == nil {
			err = p.want(")")
		}
		return memIn(a, all), err
	case p.take("=", "ANY", "(", "string_to_array", "("):
		list, err := p.operand()
		if err == nil {
			err = p.want(",", "','", ")", ")")
		}
		return func(e *memEnv) (any, error) {
			v, err := a(e)
			l, err2 := list(e)
			text, _ := l.(string)
			s, _ := v.(string)
			return slices.Contains(strings.Split(text, ","), s), cmp.Or(err, err2)
		}, err
	}
	test, ok := map[string]func(c int) bool{
		"=": func(c int) bool { return c == 0 }, "<>": func(c int) bool { return c != 0 }, "<": func(c int) bool { return c < 0 },
		"<=": func(c int) bool { return c <= 0 }, ">": func(c int) bool { return c > 0 }, ">=": func(c int) bool { return c >= 0 },
	}[p.peek()]
	if !ok {
		return a, nil // a column that is true or false
	}
	p.next()
	b, err := p.operand()
	return func(e *memEnv) (any, error) {
		x, err := a(e)
		if err != nil {
			return nil, err
		}
		y, err := b(e)
		return x != nil && y != nil && test(compare(x, y)), err
	}, err
}

func memIn(a memExpr, all []memExpr) memExpr {
	return func(e *memEnv) (any, error) {
		x, err := a(e)
		for _, b := range all {
			if err != nil || x == nil {
				break
			}
			var y any
			if y, err = b(e); err == nil && compare(x, y) == 0 {
				return true, nil
			}
		}
		return false, err
	}
}

// operand reads a value; "|| ”" behind it changes nothing.
func (p *memParser) operand() (memExpr, error) {
	t := p.next()
	defer p.take("||", "''")
	switch {
	case t == "?":
		n := p.marks
		p.marks++
		return func(e *memEnv) (any, error) {
			if n >= len(e.args) {
				return nil, fmt.Errorf("sqldb: parameter %d is missing", n+1)
			}
			return e.args[n], nil
		}, nil
	case strings.HasPrefix(t, "'"):
		v := any(strings.Trim(t, "'"))
		return func(*memEnv) (any, error) { return v, nil }, nil
	case t == "" || !word(t[0]):
		return nil, fmt.Errorf("want a value at %q", t+" "+strings.Join(p.tokens, " "))
	}
	if n, err := strconv.ParseInt(t, 10, 64); err == nil {
		return func(*memEnv) (any, error) { return n, nil }, nil
	}
	table, col, ok := strings.Cut(t, ".")
	if !ok {
		table, col = "", t
	}
	return func(e *memEnv) (any, error) {
		for i, mt := range e.tables {
			if mt == nil || e.rows[i] == nil || table != "" && table != e.alias[i] && table != mt.name {
				continue
			}
			if v, ok := mt.value(e.rows[i], col); ok {
				return v, nil
			}
		}
		return nil, fmt.Errorf("sqldb: there is no column %s", t)
	}, nil
}
