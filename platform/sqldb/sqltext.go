package sqldb

import (
	"strconv"
	"strings"
)

// numbered turns ? marks into $1, $2, … and ?? into ?, outside of quotes and
// comments.
func numbered(sql string) string {
	if !strings.Contains(sql, "?") {
		return sql
	}
	var b strings.Builder
	b.Grow(len(sql) + 16)
	n := 0
	for i := 0; i < len(sql); {
		if end := skip(sql, i); end > i {
			b.WriteString(sql[i:end])
			i = end
			continue
		}
		switch {
		case strings.HasPrefix(sql[i:], "??"):
			b.WriteByte('?')
			i += 2
		case sql[i] == '?':
			n++
			b.WriteByte('$')
			b.WriteString(strconv.Itoa(n))
			i++
		default:
			b.WriteByte(sql[i])
			i++
		}
	}
	return b.String()
}

// skip gives the end of the quoted text or comment that begins at i, or i.
func skip(sql string, i int) int {
	until := func(from int, mark string) int {
		if j := strings.Index(sql[from:], mark); j >= 0 {
			return from + j + len(mark)
		}
		return len(sql)
	}
	switch rest := sql[i:]; {
	case rest[0] == '\'' || rest[0] == '"':
		return until(i+1, rest[:1]) // a doubled quote begins another quoted text
	case strings.HasPrefix(rest, "--"):
		return until(i, "\n")
	case strings.HasPrefix(rest, "/*"):
		return until(i+2, "*/")
	case rest[0] == '$':
		if tag := dollarTag(rest); tag != "" {
			return until(i+len(tag), tag)
		}
	}
	return i
}

// dollarTag gives the $tag$ that s begins with, or "".
func dollarTag(s string) string {
	for j := 1; j < len(s); j++ {
		switch c := s[j]; {
		case c == '$':
			return s[:j+1]
		case c == '_' || c|0x20 >= 'a' && c|0x20 <= 'z' || j > 1 && c >= '0' && c <= '9':
		default:
			return ""
		}
	}
	return ""
}

// reads reports whether a statement only reads: SELECT, VALUES, EXPLAIN, PRAGMA
// or a WITH that holds no word for writing. A wrong "no" costs a little speed.
func reads(sql string) bool {
	first := ""
	for i := 0; i < len(sql); {
		if end := skip(sql, i); end > i {
			i = end
			continue
		}
		if !letter(sql[i]) {
			i++
			continue
		}
		j := i
		for j < len(sql) && letter(sql[j]) {
			j++
		}
		word := strings.ToUpper(sql[i:j])
		i = j
		if first == "" {
			switch first = word; word {
			case "SELECT", "VALUES", "EXPLAIN", "PRAGMA":
				return true
			case "WITH":
				continue
			}
			return false
		}
		switch word {
		case "INSERT", "UPDATE", "DELETE", "REPLACE":
			return false
		}
	}
	return first == "WITH"
}

func letter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' }
