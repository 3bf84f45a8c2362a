package cli

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/rpc"
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
)

// client is what the commands of users have in common: where the server is and
// who they are.
type client struct {
	server string
	tls    bool
	json   bool
	conn   *grpc.ClientConn
}

// flags adds the flags that every such command has.
func (c *client) flags(cmd *cobra.Command) {
	fs := cmd.PersistentFlags()
	fs.StringVar(&c.server, "server", env("WAYBILL_SERVER", "localhost:9090"), "gRPC address of the server (WAYBILL_SERVER)")
	fs.BoolVar(&c.tls, "tls", false, "speak TLS to the server")
	fs.BoolVar(&c.json, "json", false, "print JSON")
}

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// dial connects and gives a context for calls in the name of whoever logged in.
func (c *client) dial(ctx context.Context) (context.Context, error) {
	conn, err := c.connect()
	if err != nil {
		return nil, err
	}
	s, err := loadSession(c.server)
	if err != nil {
		return nil, err
	}
	if time.Until(s.AccessExpires) < 30*time.Second {
		if s, err = c.refresh(ctx, conn, s); err != nil {
			return nil, err
		}
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+s.AccessToken), nil
}

func (c *client) connect() (*grpc.ClientConn, error) {
	if c.conn != nil {
		return c.conn, nil
	}
	cfg := rpc.DialConfig{}
	if c.tls {
		cfg.TLS = &tls.Config{MinVersion: tls.VersionTLS13}
	}
	target := c.server
	if !strings.Contains(target, "://") {
		target = "dns:///" + target
	}
	conn, err := rpc.Dial(target, cfg)
	if err != nil {
		return nil, fmt.Errorf("--server %s: %w", c.server, err)
	}
	c.conn = conn
	return conn, nil
}

func (c *client) close() {
	if c.conn != nil {
		_ = c.conn.Close()
	}
}

// run gives a RunE that connects, calls fn and disconnects.
func (c *client) run(fn func(ctx context.Context, cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		defer c.close()
		ctx, err := c.dial(cmd.Context())
		if err != nil {
			return err
		}
		return fn(ctx, cmd, args)
	}
}

// refresh trades the refresh token for new tokens and keeps them.
func (c *client) refresh(ctx context.Context, conn grpc.ClientConnInterface, s session) (session, error) {
	resp, err := authv1.NewAuthServiceClient(conn).RefreshToken(ctx, &authv1.RefreshTokenRequest{RefreshToken: s.RefreshToken})
	if err != nil {
		if errs.KindOf(rpc.FromStatus(err)) == errs.Unauthenticated {
			return session{}, errNotLoggedIn(c.server)
		}
		return session{}, err
	}
	s.set(resp.GetTokens())
	return s, s.save(c.server)
}

func errNotLoggedIn(server string) error {
	return errs.E(errs.Unauthenticated, "NOT_LOGGED_IN", "not logged in to %s; run: waybill login --server %s --email you@example.com", server, server)
}

// session is what login keeps between commands.
type session struct {
	Email         string    `json:"email"`
	AccessToken   string    `json:"access_token"`
	AccessExpires time.Time `json:"access_expires"`
	RefreshToken  string    `json:"refresh_token"`
}

func (s *session) set(t *authv1.Tokens) {
	s.AccessToken, s.RefreshToken, s.AccessExpires = t.GetAccessToken(), t.GetRefreshToken(), t.GetAccessExpireTime().AsTime()
}

// sessionFile gives where the sessions of this user are kept, one per server.
func sessionFile(server string) (string, error) {
	dir := os.Getenv("WAYBILL_HOME")
	if dir == "" {
		base, err := os.UserConfigDir()
		if err != nil {
			return "", fmt.Errorf("where to keep the session: %w; set WAYBILL_HOME", err)
		}
		dir = filepath.Join(base, "waybill")
	}
	name := strings.Map(func(r rune) rune {
		if strings.ContainsRune(`/\:`, r) {
			return '_'
		}
		return r
	}, server)
	return filepath.Join(dir, "session-"+name+".json"), nil
}

func loadSession(server string) (session, error) {
	var s session
	path, err := sessionFile(server)
	if err != nil {
		return s, err
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, errNotLoggedIn(server)
	}
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("the session in %s cannot be read (%w); log in again", path, err)
	}
	return s, nil
}

// save keeps the session where only this user can read it. The file is replaced
// as a whole, so that two commands at once leave one good session.
func (s *session) save(server string) error {
	path, err := sessionFile(server)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	data, err := json.Marshal(s) //nolint:gosec // keeping tokens, for their owner alone, is what the file is for
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".session-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if _, err := tmp.Write(data); err != nil {
		return errors.Join(err, tmp.Close())
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

func newLogin() *cobra.Command {
	c := &client{}
	var email, name string
	var signUp bool
	cmd := &cobra.Command{
		Use:   "login",
		Short: "Log in, so that the other commands act in your name",
		Long: `Log in. The password is read from the terminal, from standard input, or from
WAYBILL_PASSWORD. The session is kept in your configuration directory, or under
WAYBILL_HOME, readable by you alone.`,
		Example: "  waybill login --email admin@example.com\n  waybill login --sign-up --email me@example.com --name 'Me'",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			defer c.close()
			if email == "" {
				return &usageError{errors.New("--email is required")}
			}
			conn, err := c.connect()
			if err != nil {
				return err
			}
			password, err := readPassword(cmd.InOrStdin(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			auth := authv1.NewAuthServiceClient(conn)
			s := session{Email: email}
			var userID string
			if signUp {
				resp, err := auth.SignUp(cmd.Context(), &authv1.SignUpRequest{Email: email, Password: password, DisplayName: name})
				if err != nil {
					return err
				}
				userID = resp.GetUserId()
				s.set(resp.GetTokens())
			} else {
				resp, err := auth.LogIn(cmd.Context(), &authv1.LogInRequest{Email: email, Password: password})
				if err != nil {
					return err
				}
				userID = resp.GetUserId()
				s.set(resp.GetTokens())
			}
			if err := s.save(c.server); err != nil {
				return err
			}
			if c.json {
				return printAny(cmd.OutOrStdout(), map[string]string{"user_id": userID, "email": email, "server": c.server})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "logged in to %s as %s (%s)\n", c.server, email, userID)
			return err
		},
	}
	c.flags(cmd)
	cmd.Flags().StringVar(&email, "email", "", "your e-mail address")
	cmd.Flags().StringVar(&name, "name", "", "your name, when signing up")
	cmd.Flags().BoolVar(&signUp, "sign-up", false, "make a new account")
	return cmd
}

// readPassword asks on a terminal and reads a line otherwise.
func readPassword(in io.Reader, prompt io.Writer) (string, error) {
	if p := os.Getenv("WAYBILL_PASSWORD"); p != "" {
		return p, nil
	}
	if f, ok := in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprint(prompt, "Password: ")
		p, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(prompt)
		return string(p), err
	}
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if line = strings.TrimRight(line, "\r\n"); line == "" {
		return "", errs.E(errs.Invalid, "NO_PASSWORD", "no password: type it, pipe it in, or set WAYBILL_PASSWORD")
	}
	return line, nil
}
