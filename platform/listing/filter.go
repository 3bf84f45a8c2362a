package listing

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"go.einride.tech/aip/filtering"
	expr "google.golang.org/genproto/googleapis/api/expr/v1alpha1"
)

// translator turns a parsed filter into a condition. The grammar is the
// library's; which names, types and operators make sense is decided here, so that
// what is refused is refused in the caller's words.
type translator[T any] struct {
	fields     map[string]Field[T]
	everything bool
	sql        strings.Builder
	args       []any
}

// comparisons are the operators of the filter language and of SQL.
var comparisons = map[string]string{
	filtering.FunctionEquals: " = ", filtering.FunctionNotEquals: " <> ",
	filtering.FunctionLessThan: " < ", filtering.FunctionLessEquals: " <= ",
	filtering.FunctionGreaterThan: " > ", filtering.FunctionGreaterEquals: " >= ",
}

// translate gives what is wrong with the filter, or "".
func (t *translator[T]) translate(filter string) string {
	if len(filter) > maxFilter {
		return fmt.Sprintf("must have at most %d characters", maxFilter)
	}
	var parser filtering.Parser
	parser.Init(filter)
	parsed, err := parser.Parse()
	if err != nil {
		return syntax(err)
	}
	return t.condition(parsed.GetExpr())
}

// syntax gives the innermost error of the parser, which is the one that helps.
func syntax(err error) string {
	type located interface {
		error
		Position() filtering.Position
		Message() string
	}
	var at, next located
	for errors.As(err, &next) {
		at, err = next, errors.Unwrap(next)
	}
	if at == nil {
		return "ends too early"
	}
	return fmt.Sprintf("cannot be read from character %d on: %.100s", at.Position().Offset+1, at.Message())
}

// condition writes an expression that is true or false.
func (t *translator[T]) condition(e *expr.Expr) string {
	call := e.GetCallExpr()
	if call == nil {
		return `must consist of comparisons, as in name = "value"`
	}
	args := call.GetArgs()
	switch f := call.GetFunction(); f {
	case filtering.FunctionAnd, filtering.FunctionOr:
		if len(args) != 2 {
			return "has an " + f + " without two sides"
		}
		t.sql.WriteString("(")
		if problem := t.condition(args[0]); problem != "" {
			return problem
		}
		t.sql.WriteString(" " + f + " ")
		if problem := t.condition(args[1]); problem != "" {
			return problem
		}
		t.sql.WriteString(")")
		return ""
	case filtering.FunctionNot:
		if len(args) != 1 {
			return "has a NOT without a condition"
		}
		t.sql.WriteString("(NOT ")
		if problem := t.condition(args[0]); problem != "" {
			return problem
		}
		t.sql.WriteString(")")
		return ""
	case filtering.FunctionFuzzyAnd:
		return "must join its comparisons with AND or OR"
	case filtering.FunctionHas:
		return t.contains(args)
	default:
		if op, ok := comparisons[f]; ok && len(args) == 2 {
			return t.compare(f, op, args[0], args[1])
		}
		return fmt.Sprintf("calls %.50q; there are no functions but timestamp", f)
	}
}

// field finds the left side of a comparison.
func (t *translator[T]) field(e *expr.Expr) (string, Field[T], string) {
	name := e.GetIdentExpr().GetName()
	if name == "" {
		return "", Field[T]{}, "must have the name of a field on the left of each comparison"
	}
	f, ok := t.fields[name]
	if !ok || f.OnlySort || f.Everything && !t.everything {
		var names []string
		for n, f := range t.fields {
			if !f.OnlySort && (t.everything || !f.Everything) {
				names = append(names, n)
			}
		}
		return "", f, fmt.Sprintf("names the field %.50q; there are: %s", name, oneOf(names))
	}
	return name, f, ""
}

func (t *translator[T]) compare(operator, op string, left, right *expr.Expr) string {
	name, f, problem := t.field(left)
	if problem != "" {
		return problem
	}
	if (f.Type == Bool || f.Type == Enum) && operator != filtering.FunctionEquals && operator != filtering.FunctionNotEquals {
		return fmt.Sprintf("compares %s with %s; it takes = and != only", name, operator)
	}
	value, problem := f.value(right)
	if problem != "" {
		return fmt.Sprintf("compares %s with something else than %s", name, problem)
	}
	t.sql.WriteString(f.Column + op + "?")
	t.args = append(t.args, value)
	return ""
}

// likeEscapes keeps what a caller sends from being a pattern.
var likeEscapes = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)

// contains writes the operator `:`, which finds text in text, in any case.
func (t *translator[T]) contains(args []*expr.Expr) string {
	if len(args) != 2 {
		return "has a : without two sides"
	}
	name, f, problem := t.field(args[0])
	if problem != "" {
		return problem
	}
	if f.Type != String {
		return fmt.Sprintf("uses : on %s, which is no text; use =", name)
	}
	value, problem := f.value(args[1])
	if problem != "" {
		return fmt.Sprintf("compares %s with something else than %s", name, problem)
	}
	t.sql.WriteString("lower(" + f.Column + `) LIKE lower(?) ESCAPE '\'`)
	t.args = append(t.args, "%"+likeEscapes.Replace(value.(string))+"%")
	return ""
}

// value reads the right side of a comparison; when it is not of the field's type,
// problem says what is.
func (f Field[T]) value(e *expr.Expr) (value any, problem string) {
	constant, text := e.GetConstExpr(), e.GetIdentExpr().GetName()
	if s, ok := constant.GetConstantKind().(*expr.Constant_StringValue); ok {
		text = s.StringValue
	}
	isText := e.GetIdentExpr() != nil || isString(constant)
	switch f.Type {
	case String:
		if isText && storable(text) {
			return text, ""
		}
		return nil, `text in quotes, without the character NUL`
	case Int:
		if n, ok := constant.GetConstantKind().(*expr.Constant_Int64Value); ok {
			return n.Int64Value, ""
		}
		return nil, "a whole number"
	case Bool:
		if e.GetIdentExpr() != nil && (text == "true" || text == "false") {
			return text == "true", ""
		}
		return nil, "true or false"
	case Enum:
		if v, ok := f.Values[text]; ok && isText {
			return v, ""
		}
		names := make([]string, 0, len(f.Values))
		for n := range f.Values {
			names = append(names, n)
		}
		return nil, "one of " + oneOf(names)
	default:
		if call := e.GetCallExpr(); call != nil && call.GetFunction() == filtering.FunctionTimestamp && len(call.GetArgs()) == 1 {
			text = call.GetArgs()[0].GetConstExpr().GetStringValue()
		} else if !isText {
			text = ""
		}
		at, err := time.Parse(time.RFC3339Nano, text)
		if err != nil || at.UTC().Year() < 1 || at.UTC().Year() > 9999 {
			return nil, `a time as in "2026-01-31T12:00:00Z"`
		}
		return at.UTC(), ""
	}
}

func isString(c *expr.Constant) bool {
	_, ok := c.GetConstantKind().(*expr.Constant_StringValue)
	return ok
}
