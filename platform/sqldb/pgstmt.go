package sqldb

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	stateKey      = "waybill.sqldb"
	maxStatements = 512  // prepared per connection
	maxTexts      = 4096 // rewritten SQL texts kept
)

// counter counts what is kept, so that it can be bounded.
type counter struct{ n atomic.Int64 }

func (c *counter) add() int64 { return c.n.Add(1) }
func (c *counter) reset()     { c.n.Store(0) }

// connState is what a connection remembers: its prepared statements.
type connState struct {
	stmts map[string]*pgStmt
	names int
	clock uint64
	out   []byte // memory for what is sent, see sendBuffer
}

// pgStmt is one prepared statement.
type pgStmt struct {
	desc    *pgconn.StatementDescription
	formats []int16 // of the result columns
	used    uint64
}

func newConnState() *connState { return &connState{stmts: map[string]*pgStmt{}} }

func connStateOf(c *pgxpool.Conn) *connState {
	return c.Conn().PgConn().CustomData()[stateKey].(*connState)
}

// maxOut is how much memory for sending a connection keeps.
const maxOut = 1 << 20

// lend gives the connection room for size bytes that are sent next. pgx throws its
// own buffer away after every large flush and grows the next one from 1 KiB, by
// copying, up to the size of the batch.
func (st *connState) lend(pc *pgconn.PgConn, size int) {
	if size > maxOut {
		return
	}
	if cap(st.out) < size {
		st.out = make([]byte, 0, min(2*size, maxOut))
	}
	pc.Frontend().Send(sendBuffer(st.out))
}

// sendBuffer poses as a message to put memory under those that follow. The memory
// stays with its connection, so nobody else ever writes into it.
type sendBuffer []byte

// Encode gives dst in the new memory.
func (b sendBuffer) Encode(dst []byte) ([]byte, error) {
	if cap(dst) >= cap(b) {
		return dst, nil
	}
	return append(b[:0], dst...), nil
}

// Decode and Frontend make it a message of the client's.
func (sendBuffer) Decode([]byte) error { return errors.ErrUnsupported }

// Frontend marks a message of the client's.
func (sendBuffer) Frontend() {}

// get gives the statement if it is prepared.
func (st *connState) get(sql string) *pgStmt {
	s := st.stmts[sql]
	if s != nil {
		st.clock++
		s.used = st.clock
	}
	return s
}

// prepareOne prepares one statement unless it is.
func (st *connState) prepareOne(ctx context.Context, pc *pgconn.PgConn, sql string) (*pgStmt, error) {
	if s := st.get(sql); s != nil {
		return s, nil
	}
	if _, err := st.prepare(ctx, pc, []string{sql}); err != nil {
		return nil, classifyPostgres(err)
	}
	return st.get(sql), nil
}

// prepare prepares those of sqls that are not, in one round trip. When it fails
// it tells the index of the statement at fault.
func (st *connState) prepare(ctx context.Context, pc *pgconn.PgConn, sqls []string) (failed int, err error) {
	var todo []int
	for i, sql := range sqls {
		if st.get(sql) == nil && !slices.Contains(sqls[:i], sql) {
			todo = append(todo, i)
		}
	}
	if len(todo) == 0 {
		return 0, nil
	}
	p := pc.StartPipeline(ctx)
	for len(st.stmts) > 0 && len(st.stmts)+len(todo) > maxStatements {
		p.SendDeallocate(st.evict())
	}
	first := st.names + 1
	for _, i := range todo {
		st.names++
		p.SendPrepare(stmtName(st.names), sqls[i], nil)
	}
	if err := p.Sync(); err != nil {
		return 0, err
	}
	done := 0
	for {
		got, err := p.GetResults()
		if err != nil {
			_ = p.Close()
			return todo[min(done, len(todo)-1)], err
		}
		switch r := got.(type) {
		case *pgconn.StatementDescription:
			r.Name, r.SQL = stmtName(first+done), sqls[todo[done]]
			st.clock++
			st.stmts[r.SQL] = &pgStmt{desc: r, formats: resultFormats(r.Fields), used: st.clock}
			done++
		case *pgconn.PipelineSync:
			return 0, p.Close()
		case nil:
			return 0, errors.Join(errors.New("sqldb: the pipeline ended early"), p.Close())
		}
	}
}

func stmtName(n int) string { return "s" + strconv.Itoa(n) }

// evict drops the statement that was not used for the longest time and gives its
// name.
func (st *connState) evict() string {
	var oldest *pgStmt
	for _, s := range st.stmts {
		if oldest == nil || s.used < oldest.used {
			oldest = s
		}
	}
	delete(st.stmts, oldest.desc.SQL)
	return oldest.desc.Name
}

// forget closes the connection after an error that tells that its prepared
// statements do not fit the tables or the server any more.
func (st *connState) forget(pc *pgconn.PgConn, err error) {
	var pe *pgconn.PgError
	if errors.As(err, &pe) && (pe.Code == "0A000" && strings.Contains(pe.Message, "cached plan") || pe.Code == "26000") {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = pc.Close(ctx)
	}
}

// resultFormats asks for binary where decode knows it and for text elsewhere.
func resultFormats(fields []pgconn.FieldDescription) []int16 {
	out := make([]int16, len(fields))
	for i, f := range fields {
		switch f.DataTypeOID {
		case pgtype.BoolOID, pgtype.ByteaOID, pgtype.Int8OID, pgtype.Int4OID, pgtype.Int2OID, pgtype.Float8OID, pgtype.Float4OID,
			pgtype.TimestamptzOID, pgtype.TimestampOID, pgtype.JSONBOID, pgtype.UUIDOID:
			out[i] = 1
		}
	}
	return out
}
