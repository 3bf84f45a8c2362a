package sqldb

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// pgSession is one transaction on PostgreSQL. Each run is one pipeline: BEGIN if
// it is the first, the statements, COMMIT if it is the last, and one Sync. A
// transaction that fits into one run needs neither, for the server treats what
// lies between two Syncs as one transaction.
type pgSession struct {
	p     *postgres
	conn  *pgxpool.Conn
	begun bool
}

// pgStep is one statement of a run, ready to send.
type pgStep struct {
	op         *op // nil for BEGIN and COMMIT
	sql        string
	from, to   int // its parameters in the encoder
	stmt       *pgStmt
	buffer     *pgRows // keeps the rows, if not nil
	commitHere bool
}

// stepOverhead is about what a statement without parameters takes on the wire.
const stepOverhead = 128

// pgRun is the memory of one run, used again by later ones.
type pgRun struct {
	steps []pgStep
	sqls  []string
	enc   encoder
}

func (r *pgRun) reset() {
	clear(r.steps)
	clear(r.sqls)
	r.steps, r.sqls = r.steps[:0], r.sqls[:0]
	r.enc.reset()
}

func newPgRuns() *sync.Pool { return &sync.Pool{New: func() any { return new(pgRun) }} }

func (s *pgSession) run(ctx context.Context, ops []op, mode runMode) error {
	return s.runInto(ctx, ops, mode, nil)
}

func (s *pgSession) query(ctx context.Context, sql string, args []any) (*Rows, error) {
	rows := &pgRows{}
	ops := []op{{kind: opQuery, sql: sql, args: args}}
	if err := s.runInto(ctx, ops, runSend, rows); err != nil {
		return nil, err
	}
	return &Rows{src: rows}, nil
}

func (s *pgSession) runInto(ctx context.Context, ops []op, mode runMode, buffer *pgRows) error {
	r := s.p.runs.Get().(*pgRun)
	defer func() {
		r.reset()
		s.p.runs.Put(r)
	}()
	if err := s.compile(r, ops, mode, buffer); err != nil {
		return err
	}
	if len(r.steps) == 0 {
		if mode != runSend {
			s.release()
		}
		return nil
	}
	if s.conn == nil {
		conn, err := s.p.acquire(ctx)
		if err != nil {
			return err
		}
		s.conn = conn
	}
	if err := s.bind(ctx, r); err != nil {
		return err
	}
	if mode != runSend {
		// From here on a cut would leave the outcome unknown, so the server's
		// answer is waited for.
		if err := ctx.Err(); err != nil {
			return err
		}
		wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.p.cfg.StatementTimeout+s.p.cfg.LockTimeout)
		defer cancel()
		ctx = wait
	}
	if err := s.pipeline(ctx, r, mode); err != nil {
		return err
	}
	if mode != runSend {
		s.release()
	}
	return nil
}

// compile turns ops into SQL. A transaction that both begins and ends here goes
// without BEGIN and COMMIT.
func (s *pgSession) compile(r *pgRun, ops []op, mode runMode, buffer *pgRows) error {
	begin := !s.begun && mode == runSend
	for i := range ops {
		o := &ops[i]
		if o.empty() {
			continue
		}
		if begin && len(r.steps) == 0 {
			r.steps = append(r.steps, pgStep{sql: "begin"})
		}
		sql, err := s.p.sql(o)
		if err != nil {
			return err
		}
		r.steps = append(r.steps, pgStep{op: o, sql: sql, buffer: buffer})
	}
	if s.begun && mode != runSend {
		r.steps = append(r.steps, pgStep{sql: "commit", commitHere: true})
	}
	return nil
}

// sql gives the statement of o.
func (p *postgres) sql(o *op) (string, error) {
	if o.kind == opExec || o.kind == opQuery {
		return p.dollar(o.sql), nil
	}
	f, err := p.db.forms(o.table)
	if err != nil {
		return "", err
	}
	switch o.kind {
	case opInsert:
		return f.insert, nil
	case opInsertNew:
		return f.insertNew, f.needKey()
	case opInsertReturning:
		return f.insertReturning(o.cols), nil
	case opUpdate:
		return f.update, f.needUpdate()
	case opUpdateAt:
		return f.updateAt, f.needVersion()
	case opExpect:
		return f.expect, errors.Join(f.needTextKey(), f.needVersion())
	case opDelete:
		return f.delete, f.needTextKey()
	case opDeleteAll:
		return f.deleteAll, f.needTextKey()
	}
	if o.lock {
		return f.loadLock, f.needTextKey()
	}
	return f.load, f.needTextKey()
}

// bind prepares what is not and writes the parameters.
func (s *pgSession) bind(ctx context.Context, r *pgRun) error {
	for i := range r.steps {
		r.sqls = append(r.sqls, r.steps[i].sql)
	}
	st, pc := connStateOf(s.conn), s.conn.Conn().PgConn()
	if i, err := st.prepare(ctx, pc, r.sqls); err != nil {
		return r.steps[i].wrap(classifyPostgres(err))
	}
	for i := range r.steps {
		step := &r.steps[i]
		step.stmt = st.get(step.sql)
		step.from = len(r.enc.ends)
		if step.op != nil {
			if err := r.enc.op(s.p, step.op, step.stmt.desc.ParamOIDs); err != nil {
				return err
			}
		}
		step.to = len(r.enc.ends)
	}
	return nil
}

// op writes the parameters of o.
func (e *encoder) op(p *postgres, o *op, oids []uint32) error {
	switch o.kind {
	case opExec, opQuery:
		return e.args(oids, o.args)
	case opLoad, opDelete, opDeleteAll:
		e.keys(o.keys)
		return nil
	case opExpect:
		e.keys(o.keys)
		e.ints(o.versions)
		return nil
	}
	f, err := p.db.forms(o.table)
	if err != nil {
		return err
	}
	rows, err := f.prepared(o)
	if err != nil {
		return err
	}
	return e.columns(o, rows)
}

// pipeline sends the run and reads its results.
func (s *pgSession) pipeline(ctx context.Context, r *pgRun, mode runMode) error {
	pc := s.conn.Conn().PgConn()
	p := pc.StartPipeline(ctx)
	connStateOf(s.conn).lend(pc, len(r.enc.buf)+len(r.steps)*stepOverhead+16*len(r.enc.ends))
	for i := range r.steps {
		step := &r.steps[i]
		values, formats := r.enc.params(step.from, step.to)
		p.SendQueryStatement(step.stmt.desc, values, formats, step.stmt.formats)
	}
	s.begun = true
	if err := p.Sync(); err != nil {
		return s.failed(err, nil, mode)
	}
	var callback error
	for i := range r.steps {
		step := &r.steps[i]
		err := step.read(p, &callback)
		if err != nil {
			connStateOf(s.conn).forget(pc, err)
			_ = p.Close() // after an error or by the callback's wish: the connection tells the rest
			return s.failed(err, step, mode)
		}
		if callback != nil && mode == runSend {
			_ = p.Close()
			return callback
		}
	}
	if _, err := p.GetResults(); err != nil { // the Sync: a deferred constraint fails here
		_ = p.Close()
		return s.failed(err, nil, mode)
	}
	if err := p.Close(); err != nil {
		return s.failed(err, nil, mode)
	}
	if callback != nil {
		s.release()
		return committed(callback)
	}
	return nil
}

// read takes the result of one statement.
func (step *pgStep) read(p *pgconn.Pipeline, callback *error) error {
	got, err := p.GetResults()
	if err != nil {
		return err
	}
	rr, ok := got.(*pgconn.ResultReader)
	if !ok {
		return fmt.Errorf("sqldb: the pipeline gave a %T", got)
	}
	var row pgRow
	for rr.NextRow() {
		switch {
		case step.buffer != nil:
			step.buffer.add(rr.Values())
		case step.op != nil && step.op.fn != nil && *callback == nil:
			row.fields, row.values = rr.FieldDescriptions(), rr.Values()
			*callback = step.op.fn(&row)
		}
	}
	if step.buffer != nil {
		step.buffer.fields = slices.Clone(rr.FieldDescriptions())
	}
	tag, err := rr.Close()
	if err != nil {
		return err
	}
	if step.commitHere && tag.String() != "COMMIT" {
		return errors.New("sqldb: the server answered COMMIT with " + tag.String())
	}
	if step.op != nil {
		step.op.affected = tag.RowsAffected()
	}
	return nil
}

// failed classifies the error of a pipeline; step is nil when it belongs to none.
func (s *pgSession) failed(err error, step *pgStep, mode runMode) error {
	var pe *pgconn.PgError
	told := errors.As(err, &pe)
	if mode != runSend && lost(err) {
		return unknown(err)
	}
	if !told && !isContext(err) {
		return unavailable(err)
	}
	if step == nil {
		return classifyPostgres(err)
	}
	if told && pe.Code == "22012" && step.op != nil {
		switch step.op.kind {
		case opUpdate, opUpdateAt, opExpect, opDeleteAll:
			return fmt.Errorf("%w: table %s", ErrMissing, step.op.table.Name)
		}
	}
	return step.wrap(classifyPostgres(err))
}

// wrap says which table or statement an error belongs to.
func (step *pgStep) wrap(err error) error {
	switch {
	case err == nil || step.op == nil:
		return err
	case step.op.table != nil:
		return fmt.Errorf("table %s: %w", step.op.table.Name, err)
	}
	return err
}

func (s *pgSession) release() {
	if s.conn != nil {
		s.conn.Release()
		s.conn = nil
	}
}

func (s *pgSession) rollback() {
	if s.conn == nil {
		return
	}
	if pc := s.conn.Conn().PgConn(); !pc.IsClosed() && pc.TxStatus() != 'I' {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		// Release closes a connection that is still inside a transaction.
		_, _ = s.conn.Exec(ctx, "rollback", pgx.QueryExecModeSimpleProtocol)
	}
	s.release()
}
