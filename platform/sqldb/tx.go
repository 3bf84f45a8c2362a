package sqldb

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// A Tx is one transaction, used by one goroutine. It costs no round trip of its
// own: BEGIN travels with the first statements and COMMIT with the last, and a
// transaction that is one Commit is one round trip. On PostgreSQL it is READ
// COMMITTED; on SQLite it begins IMMEDIATE, so it writes without surprises.
//
// After an error it is rolled back and takes no more statements.
type Tx struct {
	s     session
	state txState
}

// fail undoes what was done at once, so that locks do not wait for the caller.
func (tx *Tx) fail(err error) error {
	tx.state = txFailed
	tx.s.rollback()
	return err
}

type txState uint8

const (
	txOpen txState = iota
	txFailed
	txDone
)

// Begin makes a transaction. Nothing is sent and no connection is taken before
// its first statement. Always call Rollback at the end (it does nothing after
// Commit), or use InTx.
func (db *DB) Begin(ctx context.Context) (*Tx, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return &Tx{s: db.b.session()}, nil
}

// InTx runs fn in a transaction and commits it, or rolls back when fn fails or
// panics. It runs fn again, up to five times in all with a short random wait,
// when the transaction lost a race (Retryable), so fn must not keep anything of
// a run that failed. A commit with unknown outcome is not repeated.
func (db *DB) InTx(ctx context.Context, fn func(context.Context, *Tx) error) error {
	const attempts = 5
	for attempt := 1; ; attempt++ {
		err := db.once(ctx, fn)
		if err == nil || attempt == attempts || !Retryable(err) || Ambiguous(err) {
			return err
		}
		wait := time.Duration(1+rand.IntN(4<<attempt)) * time.Millisecond
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}

func (db *DB) once(ctx context.Context, fn func(context.Context, *Tx) error) error {
	tx, err := db.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := fn(ctx, tx); err != nil {
		return err
	}
	return tx.Commit(ctx, nil)
}

// ready tells why the transaction takes no more statements.
func (tx *Tx) ready() error {
	switch tx.state {
	case txFailed:
		return fmt.Errorf("%w: it was rolled back after an error", ErrTxDone)
	case txDone:
		return ErrTxDone
	}
	return nil
}

// Send runs b in one round trip.
func (tx *Tx) Send(ctx context.Context, b *Batch) error {
	if err := tx.ready(); err != nil {
		return err
	}
	if err := tx.s.run(ctx, b.all(), runSend); err != nil {
		return tx.fail(err)
	}
	return nil
}

// Commit runs b, which may be nil, and commits, all in one round trip. Once it is
// under way the end of ctx no longer stops it. When it fails nothing was kept,
// with two exceptions: an error for which Ambiguous is true leaves the outcome
// unknown, and one that is ErrCommitted comes from a callback of b, which is
// called too late to prevent the commit.
func (tx *Tx) Commit(ctx context.Context, b *Batch) error {
	if err := tx.ready(); err != nil {
		return err
	}
	if err := tx.s.run(ctx, b.all(), runCommit); err != nil {
		return tx.fail(err)
	}
	tx.state = txDone
	return nil
}

// Rollback undoes the transaction if it has not been committed and gives its
// connection back.
func (tx *Tx) Rollback() {
	if tx.state == txOpen {
		tx.s.rollback()
	}
	tx.state = txDone
}

// Query runs a statement inside the transaction. All its rows are read before it
// returns, so that other statements may follow while they are looked at.
func (tx *Tx) Query(ctx context.Context, sql string, args ...any) (*Rows, error) {
	if err := tx.ready(); err != nil {
		return nil, err
	}
	rows, err := tx.s.query(ctx, sql, args)
	if err != nil {
		return nil, tx.fail(err)
	}
	return rows, nil
}

// QueryRow is Query for one row. Errors come from Scan, ErrNoRows when there is
// none.
func (tx *Tx) QueryRow(ctx context.Context, sql string, args ...any) *Row {
	rows, err := tx.Query(ctx, sql, args...)
	return &Row{rows: rows, err: err}
}

// Exec runs a statement inside the transaction and gives the number of rows it
// touched.
func (tx *Tx) Exec(ctx context.Context, sql string, args ...any) (int64, error) {
	if err := tx.ready(); err != nil {
		return 0, err
	}
	ops := []op{{kind: opExec, sql: sql, args: args}}
	if err := tx.s.run(ctx, ops, runSend); err != nil {
		return 0, tx.fail(err)
	}
	return ops[0].affected, nil
}
