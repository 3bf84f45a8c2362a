package sqldb

import "io/fs"

// Embedded gives what Migrate wants from an embedded folder called migrations.
func Embedded(fsys fs.FS) fs.FS {
	sub, err := fs.Sub(fsys, "migrations")
	if err != nil {
		panic(err) // only for a path that is not one
	}
	return sub
}
