package sqldb

import "errors"

// Rows are the rows of a query. Walk them with Next and Scan, then look at Err.
// They are closed by the last Next; close them by hand when leaving earlier.
type Rows struct {
	src    rowSource
	err    error
	closed bool
}

// rowSource is where rows come from: a live result or memory.
type rowSource interface {
	Scanner
	// next moves to the next row, or tells that there is none.
	next() (bool, error)
	// close ends the query; its error is one of the query.
	close() error
}

// Next moves to the next row and reports whether there is one.
func (r *Rows) Next() bool {
	if r.closed {
		return false
	}
	ok, err := r.src.next()
	if err != nil {
		r.err = err
	}
	if !ok || err != nil {
		r.Close()
		return false
	}
	return true
}

// Scan copies the columns of the current row into dest.
func (r *Rows) Scan(dest ...any) error {
	if r.closed {
		return errors.New("sqldb: Scan without a row")
	}
	return r.src.Scan(dest...)
}

// Err gives the error that ended the rows, if one did.
func (r *Rows) Err() error { return r.err }

// Close ends the query early; it is harmless when the rows have ended.
func (r *Rows) Close() {
	if r.closed {
		return
	}
	r.closed = true
	if err := r.src.close(); err != nil && r.err == nil {
		r.err = err
	}
}

// Row is the first row of a query.
type Row struct {
	rows *Rows
	err  error
}

// Scan copies the columns of the row into dest and ends the query. It fails with
// ErrNoRows when there is no row.
func (r *Row) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	defer r.rows.Close()
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return ErrNoRows
	}
	if err := r.rows.Scan(dest...); err != nil {
		return err
	}
	r.rows.Close()
	return r.rows.Err()
}
