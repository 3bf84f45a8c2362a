package config

import (
	"bufio"
	"fmt"
	"io"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// hidden stands for a secret in what is printed.
const hidden = "[redacted]"

// Print writes the settings that dst holds as YAML with the help of each as a
// comment. Secrets are hidden, and so are passwords in URLs; apart from them the
// output can be loaded again. It panics as Bind does.
func Print(w io.Writer, dst any) error {
	b := bufio.NewWriter(w)
	var open []string // the sections that are open
	for _, l := range mustLeaves(dst) {
		parts := strings.Split(l.key, ".")
		sections := parts[:len(parts)-1]
		same := 0
		for same < len(open) && same < len(sections) && open[same] == sections[same] {
			same++
		}
		for i := same; i < len(sections); i++ {
			fmt.Fprintf(b, "%s%s:\n", indent(i), sections[i])
		}
		open = sections
		in := indent(len(sections))
		fmt.Fprintf(b, "%s# %s\n%s%s:%s\n", in, strings.ReplaceAll(l.help, "\n", " "), in, parts[len(parts)-1], yamlValue(l, in))
	}
	return b.Flush()
}

func indent(n int) string { return strings.Repeat("  ", n) }

// yamlValue writes what stands after the colon.
func yamlValue(l leaf, in string) string {
	v := l.value
	switch {
	case l.secret:
		if v.IsZero() {
			return ` ""`
		}
		return " " + strconv.Quote(hidden)
	case isText(v.Type()), v.Type() == typeDuration, v.Kind() == reflect.String:
		return " " + strconv.Quote(withoutPassword(text(v)))
	case v.Kind() == reflect.Slice:
		items := make([]string, v.Len())
		for i := range items {
			items[i] = strconv.Quote(withoutPassword(v.Index(i).String()))
		}
		return " [" + strings.Join(items, ", ") + "]"
	case v.Kind() == reflect.Map:
		if v.Len() == 0 {
			return " {}"
		}
		var items []string
		for _, k := range v.MapKeys() {
			items = append(items, "\n"+in+"  "+strconv.Quote(k.String())+": "+strconv.Quote(withoutPassword(v.MapIndex(k).String())))
		}
		slices.Sort(items)
		return strings.Join(items, "")
	}
	return " " + text(v)
}

// withoutPassword hides the password of a URL such as that of a database, in its
// user part and in its query.
func withoutPassword(s string) string {
	if !strings.Contains(s, "://") {
		return s
	}
	name := ""
	if k, rest, ok := strings.Cut(s, "="); ok && !strings.Contains(k, ":") {
		name, s = k+"=", rest // name=url, as in --db
	}
	u, err := url.Parse(s)
	if err != nil {
		return name + hidden
	}
	if _, has := u.User.Password(); has {
		u.User = url.UserPassword(u.User.Username(), "redacted")
	}
	if q := u.Query(); q.Has("password") || q.Has("sslpassword") {
		for _, k := range []string{"password", "sslpassword"} {
			if q.Has(k) {
				q.Set(k, "redacted")
			}
		}
		u.RawQuery = q.Encode()
	}
	return name + u.String()
}
