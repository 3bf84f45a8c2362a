//go:build !unix

package sqldbtest

// A Server is a PostgreSQL of this process's own; this system has none.
type Server struct{}

// URL is where to connect.
func (s *Server) URL() string { return "" }

// Stop ends the server.
func (s *Server) Stop() error { return nil }

// Start fails with ErrNoPostgres on this system; use WAYBILL_TEST_POSTGRES.
func Start(durable bool) (*Server, error) { return nil, ErrNoPostgres }
