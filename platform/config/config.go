// Package config fills a struct from four layers: the defaults it holds already,
// a YAML file, WAYBILL_* environment variables, and command-line flags. It is
// strict: a key nobody knows, a value of the wrong type or a struct that does not
// validate is an error which names the key, where it came from and the nearest
// key there is. All problems are reported at once.
//
// A struct describes itself:
//
//	type Config struct {
//		GRPC struct {
//			Addr string `help:"address of the gRPC server"`
//		}
//		Timeout  time.Duration    `help:"longest time of a call"`
//		Password telemetry.Secret `help:"of the database"`
//	}
//
// gives the keys grpc.addr, timeout and password; the variables WAYBILL_GRPC_ADDR,
// WAYBILL_TIMEOUT and WAYBILL_PASSWORD; the flags --grpc-addr and --timeout. Tags:
//
//	help:"…"        required on every value; the text of its flag and of --print-config
//	key:"name"      another key than the field's name in snake_case; "-" leaves the field out
//	short:"d"       a one-letter flag
//	secret:"true"   never printed and no flag, since flags are seen in the process list; the
//	                variable WAYBILL_X_FILE may name a file that holds it. Fields of type
//	                telemetry.Secret are secret without the tag
//
// Values may be strings, booleans, numbers, time.Duration, Size, anything that
// implements encoding.TextUnmarshaler, []string and map[string]string. A struct
// with a method Validate() error is asked after loading, at every level. Embedded
// structs add their keys to the level they are embedded in.
package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/cobra"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/internal/nearest"
)

// envPrefix begins every variable that is ours.
const envPrefix = "WAYBILL_"

// Names of the flags every configured command has.
const (
	flagFile  = "config"
	flagPrint = "print-config"
	flagCheck = "check-config"
)

// An Option changes how Load reads its layers.
type Option func(*options)

type options struct {
	environ   []string
	elsewhere []any
}

// Environ replaces the environment of the process.
func Environ(kv []string) Option { return func(o *options) { o.environ = kv } }

// AlsoKnown names further structs whose variables may be set without being used
// here, as those of `serve` may be when another command of the binary runs.
func AlsoKnown(structs ...any) Option {
	return func(o *options) { o.elsewhere = append(o.elsewhere, structs...) }
}

// Bind adds a flag for every value of the struct that dst points to, with its
// present value as the default, and the flags --config, --print-config and
// --check-config. It panics if dst cannot be described (no pointer to a struct, a
// value without help, a type it does not know, two values with one key): that is
// a mistake in the program, which its first test finds.
func Bind(cmd *cobra.Command, dst any) {
	fs := cmd.Flags()
	for _, l := range mustLeaves(dst) {
		if l.secret {
			continue
		}
		f := fs.VarPF(&flagValue{leaf: l}, l.flag(), l.short, l.help)
		if l.value.Kind() == reflect.Bool {
			f.NoOptDefVal = "true"
		}
	}
	if fs.Lookup(flagFile) == nil {
		fs.String(flagFile, "", "YAML file with settings ("+envPrefix+"CONFIG)")
		fs.Bool(flagPrint, false, "print the settings in force, secrets hidden, and exit")
		fs.Bool(flagCheck, false, "check the settings and exit")
	}
}

// PrintRequested reports whether the command line has --print-config.
func PrintRequested(cmd *cobra.Command) bool { return isSet(cmd, flagPrint) }

// CheckRequested reports whether the command line has --check-config.
func CheckRequested(cmd *cobra.Command) bool { return isSet(cmd, flagCheck) }

func isSet(cmd *cobra.Command, name string) bool {
	f := cmd.Flags().Lookup(name)
	return f != nil && f.Value.String() == "true"
}

// Load fills the struct that dst points to from file, environment and flags, in
// rising order, over the values it holds. Its error is an *errs.Error of kind
// Invalid with one Field per problem, whose text lists them all; dst is then in
// an unspecified state. dst must have been given to Bind with the same cmd.
func Load(cmd *cobra.Command, dst any, opts ...Option) error {
	o := options{environ: os.Environ()}
	for _, opt := range opts {
		opt(&o)
	}
	l := &loader{leaves: mustLeaves(dst)}
	for _, other := range o.elsewhere {
		l.elsewhere = append(l.elsewhere, mustLeaves(other)...)
	}
	path := ""
	if f := cmd.Flags().Lookup(flagFile); f != nil {
		path = f.Value.String()
	}
	if path == "" {
		path = lookup(o.environ, envPrefix+"CONFIG")
	}
	if path != "" {
		l.loadFile(path)
	}
	l.loadEnviron(o.environ)
	for _, leaf := range l.leaves {
		if f := cmd.Flags().Lookup(leaf.flag()); f != nil && f.Changed {
			if v, ok := f.Value.(*flagValue); ok {
				leaf.value.Set(v.parsed)
			}
		}
	}
	if len(l.problems) == 0 {
		validate(reflect.ValueOf(dst), "", &l.problems)
	}
	return l.err()
}

// loader collects the problems of all layers.
type loader struct {
	leaves    []leaf
	elsewhere []leaf
	problems  []errs.Field
}

func (l *loader) problem(key, format string, a ...any) {
	l.problems = append(l.problems, errs.Field{Path: key, Problem: fmt.Sprintf(format, a...)})
}

func (l *loader) err() error {
	if len(l.problems) == 0 {
		return nil
	}
	lines := make([]string, len(l.problems))
	for i, p := range l.problems {
		lines[i] = p.Path + ": " + p.Problem
	}
	return errs.E(errs.Invalid, "INVALID_CONFIG", "the configuration is not usable:\n  %s", strings.Join(lines, "\n  ")).WithFields(l.problems...)
}

// loadFile applies a YAML file.
func (l *loader) loadFile(path string) {
	if info, err := os.Stat(path); err != nil || info.IsDir() {
		if err == nil {
			err = errors.New("is a directory")
		}
		l.problem(flagFile, "the file %s cannot be read: %v", path, pathless(err))
		return
	}
	k := koanf.New(".")
	if err := k.Load(file.Provider(path), yaml.Parser()); err != nil {
		l.problem(flagFile, "the file %s is no valid YAML: %v", path, pathless(err))
		return
	}
	l.apply(k, "in "+filepath.Base(path))
}

// loadEnviron applies the variables that are ours.
func (l *loader) loadEnviron(environ []string) {
	byName, mine := map[string]leaf{}, map[string]bool{}
	for _, leaf := range l.leaves {
		byName[leaf.env()], mine[leaf.env()] = leaf, true
	}
	known := slices.Clone(l.leaves)
	for _, leaf := range l.elsewhere {
		if _, ok := byName[leaf.env()]; !ok {
			byName[leaf.env()] = leaf
			known = append(known, leaf)
		}
	}
	k := koanf.New("\x00") // names are leaves: nothing in them separates levels
	err := k.Load(env.Provider("\x00", env.Opt{Prefix: envPrefix, EnvironFunc: func() []string { return environ }}), nil)
	if err != nil {
		l.problem("environment", "%v", err)
		return
	}
	for _, name := range k.Keys() {
		text := k.String(name)
		x, ok := byName[name]
		if !ok {
			if base, isFile := strings.CutSuffix(name, "_FILE"); isFile && byName[base].secret {
				if mine[base] {
					l.loadSecret(byName[base], name, text)
				}
			} else if !ignored(name, text) {
				l.problem(name, "this variable is unknown%s", didYouMean(name, known, leaf.env))
			}
			continue
		}
		if !mine[name] {
			continue // another command's
		}
		if err := x.setText(text); err != nil {
			l.problem(x.key, "%s: %v", name, err)
		}
	}
}

// loadSecret reads a secret from the file a variable names, without its last line break.
func (l *loader) loadSecret(leaf leaf, name, path string) {
	b, err := os.ReadFile(path)
	if err != nil {
		l.problem(leaf.key, "%s: the file %s cannot be read: %v", name, path, pathless(err))
		return
	}
	if err := leaf.setText(strings.TrimRight(string(b), "\r\n")); err != nil {
		l.problem(leaf.key, "%s: %v", name, err)
	}
}

// ignored names variables with our prefix that others set: what Kubernetes tells
// every pod about Services called waybill-…, and what only tests read.
func ignored(name, value string) bool {
	switch {
	case name == envPrefix+"CONFIG", strings.HasPrefix(name, envPrefix+"TEST_"):
		return true
	case strings.HasSuffix(name, "_SERVICE_HOST"), strings.Contains(name, "_SERVICE_PORT"):
		return true
	case strings.HasSuffix(name, "_PORT"):
		return strings.HasPrefix(value, "tcp://") || strings.HasPrefix(value, "udp://")
	}
	_, port, ok := strings.Cut(name, "_PORT_")
	return ok && (strings.Contains(port, "_TCP") || strings.Contains(port, "_UDP"))
}

// apply sets the leaves that a parsed file names.
func (l *loader) apply(k *koanf.Koanf, where string) {
	keys := k.Keys()
	done := map[string]bool{}
	for _, key := range keys {
		x, name, ok := l.find(key)
		switch {
		case ok && done[name]:
		case ok:
			done[name] = true
			if err := x.setValue(k.Get(name)); err != nil {
				l.problem(name, "%s: %v", where, err)
			}
		case l.section(key) && k.Get(key) == nil:
			// An empty section says nothing.
		case l.section(key):
			l.problem(key, "%s: this is a section with keys of its own, not a value", where)
		default:
			l.problem(key, "%s: this key is unknown%s", where, didYouMean(key, l.leaves, leaf.dotted))
		}
	}
}

// find gives the leaf of a flattened key; a map's keys lie below the leaf's own.
func (l *loader) find(key string) (leaf, string, bool) {
	for _, leaf := range l.leaves {
		if key == leaf.key || leaf.value.Kind() == reflect.Map && strings.HasPrefix(key, leaf.key+".") {
			return leaf, leaf.key, true
		}
	}
	return leaf{}, "", false
}

// section reports whether there are keys below key.
func (l *loader) section(key string) bool {
	return slices.ContainsFunc(l.leaves, func(x leaf) bool { return strings.HasPrefix(x.key, key+".") })
}

// didYouMean names the key or variable that was probably meant.
func didYouMean(name string, known []leaf, nameOf func(leaf) string) string {
	names := make([]string, len(known))
	for i, l := range known {
		names[i] = nameOf(l)
	}
	if best, ok := nearest.Name(name, names); ok {
		return "; did you mean " + best + "?"
	}
	return "; --help lists what there is"
}

// lookup gives the last value of a variable.
func lookup(environ []string, name string) string {
	for _, kv := range slices.Backward(environ) {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v
		}
	}
	return ""
}

// pathless gives an error of package os without the path the caller names already.
func pathless(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
