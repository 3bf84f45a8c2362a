package sqldb

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pressly/goose/v3"

	"github.com/waybill-dev/waybill/platform/errs"
)

// The reasons of errors about versions of tables.
const (
	ReasonDatabaseNewer = "DATABASE_NEWER" // the tables are too new for this program
	ReasonDatabaseOlder = "DATABASE_OLDER" // the tables have to be migrated before this program can use them
	ReasonMigrations    = "MIGRATIONS"     // the program's own migrations are not in order
)

// A schema is a set of migrations in one dialect, as the program brings it.
type schema struct {
	name     string
	dir      fs.FS
	versions []int64         // ascending
	oldest   map[int64]int64 // by version: the oldest program that works on the tables after it
}

var compatible = regexp.MustCompile(`(?m)^-- compatible: ([0-9]+)\s*$`)

// readSchema reads the migrations of name. Each but the first must say with which
// older version it is compatible.
func readSchema(name string, d Dialect, fsys fs.FS) (*schema, error) {
	fail := func(format string, a ...any) (*schema, error) {
		return nil, errs.E(errs.Internal, ReasonMigrations, "migrations of "+name+" for "+d.String()+": "+format, a...)
	}
	dir, err := fs.Sub(fsys, d.String())
	if err != nil {
		return fail("%v", err)
	}
	files, err := fs.Glob(dir, "*.sql")
	if err != nil || len(files) == 0 {
		return fail("there are none")
	}
	s := &schema{name: name, dir: dir, oldest: map[int64]int64{}}
	for _, file := range files {
		version, err := goose.NumericComponent(path.Base(file))
		if err != nil {
			return fail("%s: %v", file, err)
		}
		text, err := fs.ReadFile(dir, file)
		if err != nil {
			return fail("%v", err)
		}
		s.versions = append(s.versions, version)
		if m := compatible.FindSubmatch(text); m != nil {
			if s.oldest[version], err = strconv.ParseInt(string(m[1]), 10, 64); err != nil || s.oldest[version] < 1 || s.oldest[version] > version {
				return fail("%s: compatible must name a version from 1 to its own", file)
			}
		}
	}
	slices.Sort(s.versions)
	for i, v := range s.versions {
		switch {
		case i == 0:
			s.oldest[v] = v // nobody is older
		case v == s.versions[i-1]:
			return fail("two have the version %d", v)
		case s.oldest[v] == 0:
			return fail("version %d does not say which older program works on its tables: add a line \"-- compatible: <version>\"", v)
		}
	}
	return s, nil
}

// target is the version the program was written for.
func (s *schema) target() int64 { return s.versions[len(s.versions)-1] }

// fits tells whether the program works on tables of version have, of which the
// oldest program that does is of version oldest, 0 if that is not known.
func (s *schema) fits(have, oldest int64) error {
	switch target := s.target(); {
	case have < target:
		return errs.E(errs.FailedPrecondition, ReasonDatabaseOlder,
			"the tables of %s have version %d, and this program needs version %d: they have to be migrated first", s.name, have, target)
	case have > target && (oldest == 0 || oldest > target):
		return errs.E(errs.FailedPrecondition, ReasonDatabaseNewer,
			"the tables of %s have version %d, but this program knows only version %d and does not work on them; run the newer program, or restore a backup made before it",
			s.name, have, target)
	}
	return nil
}

// The tables that hold the versions: goose's, and beside it which older programs
// work on each version.
func (s *schema) versionTable() string    { return "goose_" + s.name }
func (s *schema) compatibleTable() string { return "compatible_" + s.name }

// state reads the version of the tables and the oldest program that works on
// them; one is asked with a statement that gives one number.
func (s *schema) state(d Dialect, one func(sql string) (int64, error)) (have, oldest int64, err error) {
	there := func(table string) (bool, error) {
		q := "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = '" + table + "'"
		if d == Postgres {
			q = "SELECT count(*) FROM pg_class WHERE oid = to_regclass('" + table + "')"
		}
		n, err := one(q)
		return n == 1, err
	}
	if ok, err := there(s.versionTable()); err != nil || !ok {
		return 0, 0, err
	}
	if have, err = one("SELECT coalesce(max(version_id), 0) FROM " + s.versionTable() + " WHERE is_applied"); err != nil {
		return 0, 0, err
	}
	if ok, err := there(s.compatibleTable()); err != nil || !ok {
		return have, 0, err
	}
	// Known only if the version itself is: one that a program applied which did
	// not write it down may have broken anything.
	oldest, err = one(fmt.Sprintf("SELECT coalesce(CASE WHEN max(version) = %d THEN max(oldest) END, 0) FROM %s WHERE version <= %d",
		have, s.compatibleTable(), have))
	return have, oldest, err
}

// declare writes down which older programs work on each version, before any of
// it is applied, so that no version is ever there without.
func (s *schema) declare(ctx context.Context, db *sql.DB) error {
	create := fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s (version bigint PRIMARY KEY, oldest bigint NOT NULL)", s.compatibleTable())
	if _, err := db.ExecContext(ctx, create); err != nil {
		return err
	}
	var rows []string
	for _, v := range s.versions {
		rows = append(rows, fmt.Sprintf("(%d, %d)", v, s.oldest[v]))
	}
	_, err := db.ExecContext(ctx, fmt.Sprintf("INSERT INTO %s (version, oldest) VALUES %s ON CONFLICT (version) DO UPDATE SET oldest = excluded.oldest",
		s.compatibleTable(), strings.Join(rows, ", ")))
	return err
}

// checkSchema tells whether the tables of name are fit for the program, without
// changing anything.
func (db *DB) checkSchema(ctx context.Context, name string, fsys fs.FS) error {
	s, err := readSchema(name, db.dialect, fsys)
	if err != nil {
		return err
	}
	have, oldest, err := s.state(db.dialect, func(q string) (n int64, err error) {
		err = db.QueryRow(ctx, q).Scan(&n)
		return n, err
	})
	if err != nil {
		return fmt.Errorf("look at the tables of %s: %w", name, err)
	}
	return s.fits(have, oldest)
}
