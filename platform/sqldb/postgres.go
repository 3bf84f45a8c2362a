package sqldb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/waybill-dev/waybill/platform/errs"
)

// postgres is the backend for PostgreSQL. pgx keeps the connections; statements
// are prepared once per connection and sent through its pipeline.
type postgres struct {
	db       *DB
	cfg      Config
	pool     *pgxpool.Pool
	numbered sync.Map // SQL with ? -> SQL with $n
	texts    counter
	runs     *sync.Pool // of *pgRun
}

func openPostgres(ctx context.Context, cfg Config) (*postgres, error) {
	pc, err := parsePostgres(cfg.URL)
	if err != nil {
		return nil, err
	}
	switch {
	case cfg.MaxConns > 0:
		pc.MaxConns = int32(cfg.MaxConns)
	case !strings.Contains(cfg.URL, "pool_max_conns"):
		pc.MaxConns = 8
	}
	pc.MaxConnLifetime, pc.MaxConnLifetimeJitter = 30*time.Minute, 5*time.Minute
	pc.MaxConnIdleTime = 10 * time.Minute
	if pc.ConnConfig.ConnectTimeout == 0 {
		pc.ConnConfig.ConnectTimeout = 5 * time.Second
	}
	if pc.ConnConfig.ValidateConnect == nil && !cfg.ReadOnly {
		// Decisions are made on the primary only, so a standby is no answer.
		pc.ConnConfig.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	cfg.runtimeParams(pc.ConnConfig.RuntimeParams)
	p := &postgres{cfg: cfg, runs: newPgRuns()}
	pc.AfterConnect = p.afterConnect
	if p.pool, err = pgxpool.NewWithConfig(ctx, pc); err != nil {
		return nil, classifyPostgres(err)
	}
	if err := p.createSchema(ctx); err != nil {
		p.pool.Close()
		return nil, err
	}
	return p, nil
}

// parsePostgres reads a URL. Its errors say what is wrong, but never quote it,
// since it may hold a password.
func parsePostgres(raw string) (*pgxpool.Config, error) {
	const form = "it looks like postgres://user:password@host:5432/database, with special characters of the password percent-encoded (@ is %%40, / is %%2F, # is %%23, ? is %%3F, %% is %%25, a comma %%2C)"
	u, err := url.Parse(raw)
	if err != nil || u.Fragment != "" || u.User == nil && strings.Contains(raw, "@") {
		return nil, errs.E(errs.Invalid, "DATABASE_URL", "the Postgres address cannot be read; "+form)
	}
	pc, err := pgxpool.ParseConfig(raw)
	if err == nil {
		return pc, nil
	}
	// The library's own words quote the URL; below them lies what is wrong with it.
	if why := errors.Unwrap(err); why != nil && !strings.Contains(why.Error(), "://") && !holds(why.Error(), u) {
		return nil, errs.E(errs.Invalid, "DATABASE_URL", "the Postgres address cannot be used: %v", why)
	}
	return nil, errs.E(errs.Invalid, "DATABASE_URL", "the Postgres address cannot be read; "+form)
}

// holds tells whether text has a password of the URL in it.
func holds(text string, u *url.URL) bool {
	password, _ := u.User.Password()
	for _, secret := range []string{password, u.Query().Get("password"), u.Query().Get("sslpassword")} {
		if secret != "" && strings.Contains(text, secret) {
			return true
		}
	}
	return false
}

// milliseconds is d as PostgreSQL's settings have it, where 0 means none.
func milliseconds(d time.Duration) string { return strconv.FormatInt(max(d.Milliseconds(), 1), 10) }

// runtimeParams are the settings every session begins with.
func (c Config) runtimeParams(to map[string]string) {
	to["statement_timeout"] = milliseconds(c.StatementTimeout)
	to["lock_timeout"] = milliseconds(c.LockTimeout)
	to["idle_in_transaction_session_timeout"] = milliseconds(c.IdleInTxTimeout)
	to["default_transaction_isolation"] = "read committed"
	if c.Schema != "" {
		to["search_path"] = quote(c.Schema)
	}
	if c.ReadOnly {
		to["default_transaction_read_only"] = "on"
	}
	for name, value := range map[string]string{
		"application_name": strings.TrimSuffix("waybill "+c.Schema, " "),
		// A plan is kept as long as its statement. One made when a table was new
		// and empty would scan or hash the whole table ever after, or at least
		// until statistics are gathered: 13 times slower at 100 000 rows. All bulk
		// forms go by an index, so the planner is not offered anything else.
		"enable_hashjoin": "off", "enable_mergejoin": "off", "random_page_cost": "1.1", "jit": "off",
	} {
		if to[name] == "" {
			to[name] = value
		}
	}
}

// afterConnect refuses a server that may forget commits. It is asked on every
// connection, since the server behind the address may have changed.
func (p *postgres) afterConnect(ctx context.Context, conn *pgx.Conn) error {
	conn.PgConn().CustomData()[stateKey] = newConnState()
	if p.cfg.AllowVolatile {
		return nil
	}
	var commit, fsync, pages string
	err := conn.QueryRow(ctx, "SELECT current_setting('synchronous_commit'), current_setting('fsync'), current_setting('full_page_writes')",
		pgx.QueryExecModeExec).Scan(&commit, &fsync, &pages)
	if err != nil {
		return err
	}
	for _, s := range []struct{ name, value, want string }{
		{"synchronous_commit", commit, "on remote_write remote_apply"}, {"fsync", fsync, "on"}, {"full_page_writes", pages, "on"},
	} {
		if !strings.Contains(" "+s.want+" ", " "+s.value+" ") {
			return errs.E(errs.FailedPrecondition, "DATABASE_UNSAFE",
				"PostgreSQL runs with %s=%s, so it may forget what it has committed; set it to on", s.name, s.value)
		}
	}
	return nil
}

// createSchema makes the schema if it does not exist; a role that may not make
// one can use one that does.
func (p *postgres) createSchema(ctx context.Context) error {
	if p.cfg.Schema == "" || p.cfg.ReadOnly {
		return p.ping(ctx)
	}
	exists := func() (ok bool, err error) {
		err = p.pool.QueryRow(ctx, "SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = $1)", pgx.QueryExecModeExec, p.cfg.Schema).Scan(&ok)
		return ok, err
	}
	ok, err := exists()
	if err != nil || ok {
		return classifyPostgres(err)
	}
	if p.cfg.CheckOnly {
		return errs.E(errs.FailedPrecondition, ReasonDatabaseOlder, "the database has no schema %s yet: it has to be migrated first", p.cfg.Schema)
	}
	if _, err = p.pool.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+quote(p.cfg.Schema), pgx.QueryExecModeExec); err == nil {
		return nil
	}
	if ok, again := exists(); again == nil && ok {
		return nil // somebody else made it at the same moment
	}
	return fmt.Errorf("creating schema %s: %w", p.cfg.Schema, classifyPostgres(err))
}

func (p *postgres) ping(ctx context.Context) error {
	conn, err := p.acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	_, err = conn.Exec(ctx, "SELECT 1", pgx.QueryExecModeExec)
	return classifyPostgres(err)
}

func (p *postgres) close() error {
	p.pool.Close()
	return nil
}

func (p *postgres) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	conn, err := p.pool.Acquire(ctx)
	if err == nil {
		return conn, nil
	}
	if err = classifyPostgres(err); errs.KindOf(err) == errs.Internal {
		err = unavailable(err) // the pool is closed
	}
	return nil, err
}

func (p *postgres) session() session { return &pgSession{p: p} }

// dollar gives sql with numbered parameters, from memory if it is known.
func (p *postgres) dollar(sql string) string {
	if s, ok := p.numbered.Load(sql); ok {
		return s.(string)
	}
	s := numbered(sql)
	if p.texts.add() > maxTexts {
		p.numbered.Clear()
		p.texts.reset()
	}
	p.numbered.Store(sql, s)
	return s
}

// query runs one statement on a connection of its own and streams its rows.
func (p *postgres) query(ctx context.Context, sql string, args []any) (*Rows, error) {
	conn, err := p.acquire(ctx)
	if err != nil {
		return nil, err
	}
	rr, err := p.start(ctx, conn, sql, args)
	if err != nil {
		conn.Release()
		return nil, err
	}
	return &Rows{src: &pgLive{pgRow: pgRow{fields: rr.FieldDescriptions()}, rr: rr, conn: conn, writes: !reads(sql)}}, nil
}

func (p *postgres) start(ctx context.Context, conn *pgxpool.Conn, sql string, args []any) (*pgconn.ResultReader, error) {
	st := connStateOf(conn)
	text := p.dollar(sql)
	stmt, err := st.prepareOne(ctx, conn.Conn().PgConn(), text)
	if err != nil {
		return nil, err
	}
	var e encoder
	if err := e.args(stmt.desc.ParamOIDs, args); err != nil {
		return nil, err
	}
	values, formats := e.params(0, len(args))
	return conn.Conn().PgConn().ExecStatement(ctx, stmt.desc, values, formats, stmt.formats), nil
}

// pgLive are rows that are still arriving.
type pgLive struct {
	pgRow
	rr     *pgconn.ResultReader
	conn   *pgxpool.Conn
	writes bool
}

func (r *pgLive) next() (bool, error) {
	if !r.rr.NextRow() {
		return false, nil
	}
	r.values = r.rr.Values()
	return true, nil
}

func (r *pgLive) close() error {
	_, err := r.rr.Close()
	connStateOf(r.conn).forget(r.conn.Conn().PgConn(), err)
	r.conn.Release()
	if r.writes && lost(err) {
		return unknown(err)
	}
	return classifyPostgres(err)
}

// classifyPostgres turns an error of pgx into one of this package.
func classifyPostgres(err error) error {
	if err == nil {
		return nil
	}
	var known *errs.Error
	if errors.As(err, &known) {
		return err
	}
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		return classifyState(pe, err)
	}
	if isContext(err) {
		return err
	}
	var ce *pgconn.ConnectError
	var ne net.Error
	if errors.As(err, &ce) || errors.As(err, &ne) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || pgconn.SafeToRetry(err) {
		return unavailable(err)
	}
	return err
}

// classifyState goes by the server's SQLSTATE.
func classifyState(pe *pgconn.PgError, err error) error {
	switch pe.Code {
	case "23505":
		return duplicate(err)
	case "40001", "40P01", "55P03":
		return conflict(err)
	case "57014":
		return timedOut(err)
	case "25006", "25P03", "0A000", "26000":
		// A standby, an idle session that was cut, a statement outdated by a
		// migration: another connection will do.
		if pe.Code != "0A000" || strings.Contains(pe.Message, "cached plan") {
			return unavailable(err)
		}
	}
	switch pe.Code[:min(2, len(pe.Code))] {
	case "08", "53", "57", "58":
		return unavailable(err)
	}
	return err
}

// lost reports whether a statement was sent, but how it ended was not told: the
// server did not answer or ended the session along with the error.
func lost(err error) bool {
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		return pe.Severity == "FATAL" || pe.Severity == "PANIC"
	}
	return err != nil && !pgconn.SafeToRetry(err)
}
