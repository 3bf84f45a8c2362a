package discovery

import (
	"context"
	"maps"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

func TestTargetsAreReadInTheirShortAndTheirFullForm(t *testing.T) {
	got, err := Parse("order=dns:///order:9090", "payment=payment:9090", "user=static:///10.0.0.1:9090,[::1]:9091", "auth=dns://10.0.0.53/auth:9090")
	if err != nil {
		t.Fatal(err)
	}
	want := Targets{"order": "dns:///order:9090", "payment": "dns:///payment:9090", "user": "static:///10.0.0.1:9090,[::1]:9091", "auth": "dns://10.0.0.53/auth:9090"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestTargetsThatCannotWorkAreRefused(t *testing.T) {
	for _, spec := range []string{
		"", "order", "=dns:///order:9090", "order=", "order=dns:///", "order=dns:///order", "order=dns:///:9090", "order=order:",
		"order=dns:///a:1,b:2", "order=static:///", "order=static:///a", "order=static:///a:1,", "order=static:///a:1, b:2", "order=static://a:1",
		"order=http://order:9090", "order=http://order/x:9090", "or der=order:1", "order=dns:///a/b:1",
	} {
		if got, err := Parse(spec); err == nil {
			t.Errorf("%q became %v", spec, got)
		}
	}
	if _, err := Parse("a=x:1", "a=y:1"); err == nil {
		t.Error("a service was given twice")
	}
}

// TestAStaticListSpreadsCallsOverAllServers is hazard 80: with three servers
// none may get more than 1.15 times the mean.
func TestAStaticListSpreadsCallsOverAllServers(t *testing.T) {
	target := "static:///"
	for i := range 3 {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		srv := grpc.NewServer()
		grpc_health_v1.RegisterHealthServer(srv, health.NewServer())
		go func() { _ = srv.Serve(lis) }()
		t.Cleanup(srv.Stop)
		if i > 0 {
			target += ","
		}
		target += lis.Addr().String()
	}
	conn, err := grpc.NewClient(target, append(DialOptions(0), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	client := grpc_health_v1.NewHealthClient(conn)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	got := map[string]int{}
	call := func() string {
		var p peer.Peer
		var md metadata.MD
		if _, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{}, grpc.WaitForReady(true), grpc.Peer(&p), grpc.Header(&md)); err != nil {
			t.Fatal(err)
		}
		return p.Addr.String()
	}
	for len(got) < 3 { // until all are connected
		got[call()]++
	}
	clear(got)
	for range 300 {
		got[call()]++
	}
	for addr, n := range maps.All(got) {
		if n > 115 {
			t.Errorf("%s got %d of 300 calls", addr, n)
		}
	}
}
