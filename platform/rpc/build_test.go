package rpc

import (
	"context"
	"log/slog"
	"math"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/rpc/internal/echov1"
)

// nobody is a verifier that knows no token.
type nobody struct{}

func (nobody) Verify(context.Context, string) (auth.Caller, time.Time, error) {
	return auth.Caller{}, time.Time{}, errs.E(errs.Unauthenticated, "TOKEN_INVALID", "no")
}

func newServer(t *testing.T, cfg Config) *Server {
	t.Helper()
	s, err := NewServer(cfg, Deps{Log: slog.New(slog.DiscardHandler), Verifier: nobody{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop(t.Context()) })
	return s
}

func TestAServerWhoseContractIsIncompleteIsNotBuilt(t *testing.T) {
	for name, c := range map[string]struct {
		register func(*Server)
		says     string
	}{
		"no access": {func(s *Server) { echov1.RegisterNoAccessServiceServer(s, echov1.UnimplementedNoAccessServiceServer{}) }, "NoAccessService/Do: the contract does not say who may call it"},
		"access for none": {func(s *Server) {
			echov1.RegisterEmptyAccessServiceServer(s, echov1.UnimplementedEmptyAccessServiceServer{})
		}, "EmptyAccessService/Do: option access lets nobody in"},
		"no idempotency": {func(s *Server) {
			echov1.RegisterNoIdempotencyServiceServer(s, echov1.UnimplementedNoIdempotencyServiceServer{})
		}, "NoIdempotencyService/Do: the contract does not say what a repeated call does"},
		"keyed without a key": {func(s *Server) { echov1.RegisterNoKeyServiceServer(s, echov1.UnimplementedNoKeyServiceServer{}) }, "NoKeyService/Do: a KEYED method"},
		"a rule that does not compile": {func(s *Server) {
			echov1.RegisterWrongRuleServiceServer(s, echov1.UnimplementedWrongRuleServiceServer{})
		}, "echo.v1.Wrong"},
		"not in the contract": {func(s *Server) {
			s.RegisterService(&grpc.ServiceDesc{ServiceName: "x.Y", HandlerType: (*any)(nil)}, nil)
		}, "no contract for service x.Y"},
		"a method too many": {func(s *Server) {
			desc := echov1.EchoService_ServiceDesc
			desc.Methods = append([]grpc.MethodDesc{{MethodName: "Secret"}}, desc.Methods...)
			s.RegisterService(&desc, &echo{})
		}, "EchoService/Secret is not in the contract"},
		"twice": {func(s *Server) {
			echov1.RegisterEchoServiceServer(s, &echo{})
			echov1.RegisterEchoServiceServer(s, &echo{})
		}, "EchoService is registered twice"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, Config{})
			c.register(s)
			for range 2 { // the error stays
				if err := s.Build(); err == nil || !strings.Contains(err.Error(), c.says) {
					t.Fatalf("got %v, want %q", err, c.says)
				}
			}
			if err := s.Serve(nil); err == nil {
				t.Error("it was served")
			}
			err := s.Conn().Invoke(t.Context(), echov1.EchoService_Anybody_FullMethodName, &echov1.Message{}, &echov1.Message{})
			wantError(t, err, errs.Unavailable, "SERVER_STARTING")
		})
	}
}

func TestAServiceThatComesTooLateIsToldOf(t *testing.T) {
	s := newServer(t, Config{})
	wantNoError(t, s.Build())
	echov1.RegisterEchoServiceServer(s, &echo{})
	if err := s.Build(); err == nil || !strings.Contains(err.Error(), "after Build") {
		t.Errorf("got %v", err)
	}
}

func TestSettingsThatCannotBeMeantAreRefused(t *testing.T) {
	for name, cfg := range map[string]Config{
		"negative":        {Timeout: -1},
		"beyond the max":  {Timeout: 2 * time.Second, MaxTimeout: time.Second},
		"no bytes":        {MaxMessage: -1},
		"rate, no burst":  {PerUser: Rate{PerSecond: 5}},
		"burst, no rate":  {PerIP: Rate{Burst: 5}},
		"rate of NaN":     {PerIP: Rate{PerSecond: math.NaN(), Burst: 1}},
		"negative stream": {StreamsPerUser: -1},
	} {
		if _, err := NewServer(cfg, Deps{Log: slog.Default(), Verifier: nobody{}}); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if _, err := NewServer(Config{}, Deps{Log: slog.Default()}); err == nil {
		t.Error("a server without a verifier was made")
	}
	if _, err := NewServer(Config{}, Deps{Verifier: nobody{}}); err == nil {
		t.Error("a server without a log was made")
	}
}

func TestAServerThatNeverServedStops(t *testing.T) {
	s := newServer(t, Config{})
	wantNoError(t, s.Stop(t.Context()))
	s = newServer(t, Config{})
	wantNoError(t, s.Build())
	wantNoError(t, s.Stop(t.Context()))
	wantNoError(t, s.Stop(t.Context()))
}

func TestAServerThatWasStoppedDoesNotServe(t *testing.T) {
	for name, build := range map[string]bool{"built before": true, "not built": false} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, Config{})
			if build {
				wantNoError(t, s.Build())
			}
			wantNoError(t, s.Stop(t.Context()))
			lis, err := net.Listen("tcp", "127.0.0.1:0")
			wantNoError(t, err)
			wantNoError(t, s.Serve(lis))
			if conn, err := net.Dial("tcp", lis.Addr().String()); err == nil {
				_ = conn.Close()
				t.Error("it still listens")
			}
		})
	}
}
