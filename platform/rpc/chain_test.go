package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/rpc/internal/echov1"
)

const secret = "hunter2 at db-7.internal"

// failing has every handler fail with err, or panic if it is a string.
func (w *world) failing(what any) {
	fail := func() error {
		if err, ok := what.(error); ok {
			return err
		}
		panic(what)
	}
	w.echo.unary = func(context.Context, *echov1.Message) (*echov1.Message, error) { return nil, fail() }
	w.echo.watch = func(*echov1.Message, grpc.ServerStreamingServer[echov1.Message]) error { return fail() }
}

func TestFaultsAreLoggedAndNotShown(t *testing.T) {
	for name, what := range map[string]any{
		"panic":         secret,
		"unknown error": errors.New(secret),
		"internal":      errs.E(errs.Internal, "BROKEN", secret),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.failing(what)
			w.everywhere(t, func(t *testing.T, conn grpc.ClientConnInterface) {
				for _, method := range []string{echov1.EchoService_Customers_FullMethodName, echov1.EchoService_Watch_FullMethodName} {
					err := anyCall(w.as(t, alice), conn, method)
					wantError(t, err, errs.Internal, "INTERNAL")
					if status.Convert(err).Message() != "internal error" || strings.Contains(status.Convert(err).Proto().String(), "hunter2") {
						t.Errorf("the caller sees %v", status.Convert(err).Proto())
					}
					var e *errs.Error
					errors.As(FromStatus(err), &e)
					line := lineWith(t, w.logs.String(), e.Meta["trace_id"])
					if line["level"] != "ERROR" || !strings.Contains(line["error"].(string), secret) || line["method"] != method || line["user_id"] != alice.UserID {
						t.Errorf("the log says %v", line)
					}
					if stack, _ := line["stack"].(string); name == "panic" && !strings.Contains(stack, "chain_test.go") {
						t.Errorf("the stack does not show the handler: %s", stack)
					}
				}
			})
			// The server is as good as before.
			w.echo.unary = nil
			wantNoError(t, anyCall(w.as(t, alice), w.tcp, echov1.EchoService_Customers_FullMethodName))
		})
	}
}

func lineWith(t *testing.T, logs, word string) map[string]any {
	t.Helper()
	for line := range strings.Lines(logs) {
		if word != "" && strings.Contains(line, word) {
			var m map[string]any
			wantNoError(t, json.Unmarshal([]byte(line), &m))
			return m
		}
	}
	t.Fatalf("no line with %q in %s", word, logs)
	return nil
}

func TestNothingOfARequestOrATokenIsLogged(t *testing.T) {
	w := newWorld(t)
	token := w.token(t, alice)
	w.failing(errs.E(errs.FailedPrecondition, "NOT_NOW", "cannot do it for %s", secret))
	for range 2 {
		_, err := client(w.tcp).Write(w.as(t, alice), &echov1.Message{RequestId: "r1", Name: secret, Email: secret})
		wantError(t, err, errs.FailedPrecondition, "NOT_NOW")
	}
	_, err := client(w.tcp).Write(w.as(t, alice), &echov1.Message{RequestId: "r1", Name: strings.Repeat(secret, 10)})
	wantError(t, err, errs.Invalid, "INVALID_REQUEST")
	ctx := withToken(t.Context(), token+"x")
	_, err = client(w.tcp).Customers(ctx, &echov1.Message{})
	wantError(t, err, errs.Unauthenticated, "TOKEN_INVALID")
	logs := w.logs.String()
	if strings.Contains(logs, "hunter2") || strings.Contains(logs, token[:20]) || strings.Contains(logs, token[len(token)-20:]) {
		t.Errorf("the log says %s", logs)
	}
	if n := strings.Count(logs, `"msg":"call"`); n != 4 {
		t.Errorf("%d lines for 4 failed calls: %s", n, logs)
	}
}

func TestEveryUnaryCallHasAnEnd(t *testing.T) {
	w := newWorld(t, func(c *Config, _ *Deps) { c.Timeout, c.MaxTimeout = 10*time.Second, 20*time.Second })
	ends := make(chan time.Duration, 1)
	w.recordDeadline(ends)
	for _, row := range []struct {
		name          string
		given         time.Duration
		least, atMost time.Duration
	}{
		{"none", 0, time.Second, 10 * time.Second},
		{"5 s", 5 * time.Second, time.Second, 5 * time.Second},
		{"an hour", time.Hour, 10 * time.Second, 20 * time.Second},
	} {
		for name, conn := range map[string]grpc.ClientConnInterface{"tcp": w.plain(t), "in process": w.Conn()} {
			t.Run(row.name+", "+name, func(t *testing.T) {
				ctx := t.Context()
				if row.given > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, row.given)
					defer cancel()
				}
				_, err := client(conn).Anybody(ctx, &echov1.Message{})
				wantNoError(t, err)
				if left := <-ends; left < row.least || left > row.atMost {
					t.Errorf("the handler had %s", left)
				}
			})
		}
	}
}

// recordDeadline tells how much time each handler has, -1 if it has no end.
func (w *world) recordDeadline(to chan time.Duration) {
	w.echo.unary = func(ctx context.Context, m *echov1.Message) (*echov1.Message, error) {
		left := time.Duration(-1)
		if end, ok := ctx.Deadline(); ok {
			left = time.Until(end)
		}
		to <- left
		return m, nil
	}
}

func TestACallOutOfTimeSaysSoWhateverTheHandlerMadeOfIt(t *testing.T) {
	w := newWorld(t, func(c *Config, _ *Deps) { c.Timeout = 20 * time.Millisecond })
	plain := w.plain(t)
	for name, err := range map[string]error{"a fault": errors.New("statement interrupted"), "the context's": context.DeadlineExceeded, "a status": status.Error(codes.Canceled, "x")} {
		w.echo.unary = func(ctx context.Context, m *echov1.Message) (*echov1.Message, error) {
			<-ctx.Done()
			return nil, err
		}
		_, got := client(plain).Anybody(t.Context(), &echov1.Message{})
		if errs.KindOf(FromStatus(got)) != errs.DeadlineExceeded {
			t.Errorf("%s: got %v", name, got)
		}
	}
	// What the handler found out is told even if it took too long.
	w.echo.unary = func(ctx context.Context, m *echov1.Message) (*echov1.Message, error) {
		<-ctx.Done()
		return nil, errs.E(errs.NotFound, "NO_ORDER", "no such order")
	}
	_, err := client(plain).Anybody(t.Context(), &echov1.Message{})
	wantError(t, err, errs.NotFound, "NO_ORDER")
}

func TestACallerInTheProcessDoesNotWaitForAHandlerThatHangs(t *testing.T) {
	w := newWorld(t, func(c *Config, _ *Deps) { c.Timeout = 20 * time.Millisecond })
	release := make(chan struct{})
	defer close(release)
	w.echo.unary = func(_ context.Context, m *echov1.Message) (*echov1.Message, error) {
		<-release
		return m, nil
	}
	_, err := client(w.Conn()).Anybody(t.Context(), &echov1.Message{})
	if errs.KindOf(FromStatus(err)) != errs.DeadlineExceeded {
		t.Errorf("got %v", err)
	}
}

func TestRequestsThatBreakARuleNeverReachTheHandler(t *testing.T) {
	w := newWorld(t)
	w.failing("reached")
	line := func(sku string, n uint32) []*echov1.Line {
		return []*echov1.Line{{Sku: "ok", Quantity: 1}, {Sku: sku, Quantity: n}}
	}
	w.everywhere(t, func(t *testing.T, conn grpc.ClientConnInterface) {
		for name, c := range map[string]struct {
			req   *echov1.Message
			paths []string
		}{
			"quantity 0":    {&echov1.Message{Lines: line("a", 0)}, []string{"lines[1].quantity"}},
			"quantity 2^32": {&echov1.Message{Lines: line("a", 1<<32-1)}, []string{"lines[1].quantity"}},
			"two faults":    {&echov1.Message{Amount: -1, Lines: line("", 1)}, []string{"amount", "lines[1].sku"}},
			"too many":      {&echov1.Message{Lines: make([]*echov1.Line, 101)}, []string{"lines"}},
			"no uuid":       {&echov1.Message{UserId: secret}, []string{"user_id"}},
			"too long":      {&echov1.Message{Name: strings.Repeat("é", 65)}, []string{"name"}},
		} {
			t.Run(name, func(t *testing.T) {
				for i, l := range c.req.Lines {
					if l == nil {
						c.req.Lines[i] = &echov1.Line{Sku: "x", Quantity: 1}
					}
				}
				_, err := client(conn).Customers(w.as(t, alice), c.req)
				wantError(t, err, errs.Invalid, "INVALID_REQUEST")
				var e *errs.Error
				errors.As(FromStatus(err), &e)
				if len(e.Fields) != len(c.paths) {
					t.Fatalf("fields %v", e.Fields)
				}
				for i, path := range c.paths {
					if e.Fields[i].Path != path || e.Fields[i].Problem == "" || !strings.Contains(e.Message, path) || strings.Contains(e.Message, secret) {
						t.Errorf("field %v in %q", e.Fields[i], e.Message)
					}
				}
				s, err := client(conn).Watch(w.as(t, alice), c.req)
				wantNoError(t, err)
				_, err = s.Recv()
				wantError(t, err, errs.Invalid, "INVALID_REQUEST")
			})
		}
	})
}

func TestEveryMessageOfAStreamIsValidated(t *testing.T) {
	w := newWorld(t)
	w.everywhere(t, func(t *testing.T, conn grpc.ClientConnInterface) {
		s, err := client(conn).Talk(w.as(t, alice))
		wantNoError(t, err)
		for range 3 {
			wantNoError(t, s.Send(&echov1.Message{Name: "ok"}))
			_, err := s.Recv()
			wantNoError(t, err)
		}
		wantNoError(t, s.Send(&echov1.Message{Amount: -1}))
		_, err = s.Recv()
		wantError(t, err, errs.Invalid, "INVALID_REQUEST")
	})
}

func TestAStreamEndsWhenItsClientHasSaidAll(t *testing.T) {
	w := newWorld(t)
	w.everywhere(t, func(t *testing.T, conn grpc.ClientConnInterface) {
		s, err := client(conn).Talk(w.as(t, alice))
		wantNoError(t, err)
		wantNoError(t, s.Send(&echov1.Message{Name: "bye"}))
		wantNoError(t, s.CloseSend())
		_, err = s.Recv()
		wantNoError(t, err)
		if _, err = s.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("got %v", err)
		}
	})
}

func TestARequestTooLargeIsRefused(t *testing.T) {
	w := newWorld(t)
	fits := &echov1.Message{Labels: map[string]string{"x": strings.Repeat("a", 1<<20-64)}}
	_, err := client(w.tcp).Anybody(t.Context(), fits)
	wantNoError(t, err)
	w.failing("reached")
	_, err = client(w.tcp).Anybody(t.Context(), &echov1.Message{Labels: map[string]string{"x": strings.Repeat("a", 1<<20+1)}})
	wantError(t, err, errs.ResourceExhausted, "RESOURCE_EXHAUSTED")
}

func TestNeitherSideSeesTheOtherChangeAMessage(t *testing.T) {
	w := newWorld(t)
	var kept *echov1.Message
	w.echo.unary = func(_ context.Context, m *echov1.Message) (*echov1.Message, error) {
		m.Name, m.Lines[0].Sku = "changed", "changed"
		kept = m
		return m, nil
	}
	req := &echov1.Message{Name: "mine", Lines: []*echov1.Line{{Sku: "mine", Quantity: 1}}}
	got, err := client(w.Conn()).Anybody(t.Context(), req)
	wantNoError(t, err)
	if req.Name != "mine" || req.Lines[0].Sku != "mine" {
		t.Errorf("the handler changed the caller's request to %v", req)
	}
	kept.Lines[0].Sku = "later"
	if got.Lines[0].Sku != "changed" {
		t.Errorf("the handler changed the caller's answer to %v", got)
	}
}

func TestARequestIsItsCallersAgainWhenACallWasGivenUp(t *testing.T) {
	w := newWorld(t)
	req := &echov1.Message{Name: "first"}
	for range 500 {
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		_, err := client(w.Conn()).Anybody(ctx, req)
		req.Name += "" // the race detector sees the handler's goroutine if it still reads
		req.Name = "next"
		if k := errs.KindOf(FromStatus(err)); err != nil && k != errs.Canceled {
			t.Fatal(err)
		}
	}
}

func TestACallWithoutAMessageIsRefused(t *testing.T) {
	w := newWorld(t)
	for _, req := range []any{nil, "text", (*echov1.Message)(nil)} {
		if err := w.Conn().Invoke(t.Context(), echov1.EchoService_Anybody_FullMethodName, req, &echov1.Message{}); status.Code(err) != codes.Internal {
			t.Errorf("%v: %v", req, err)
		}
	}
	if err := w.Conn().Invoke(t.Context(), echov1.EchoService_Anybody_FullMethodName, &echov1.Line{}, &echov1.Message{}); status.Code(err) != codes.Internal {
		t.Errorf("another message: %v", err)
	}
	if err := w.Conn().Invoke(t.Context(), "/"+echov1.EchoService_ServiceDesc.ServiceName+"/Nothing", &echov1.Message{}, &echov1.Message{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("an unknown method: %v", err)
	}
}
