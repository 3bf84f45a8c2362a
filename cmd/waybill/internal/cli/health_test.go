package cli

import (
	"bytes"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	grpchealth "google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func TestHealthIsGoodOnlyIfEveryServiceCanTakeCalls(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	state := grpchealth.NewServer()
	srv := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(srv, state)
	go func() { _ = srv.Serve(lis) }()
	t.Cleanup(srv.Stop)
	ask := func(args ...string) (int, string) {
		var out, errOut bytes.Buffer
		code := Main(t.Context(), append([]string{"health", "--server", lis.Addr().String()}, args...), strings.NewReader(""), &out, &errOut)
		return code, out.String() + errOut.String()
	}
	if code, text := ask(); code != 1 || !strings.Contains(text, "SERVICE_UNKNOWN") {
		t.Errorf("a server without services: exit code %d\n%s", code, text)
	}
	for _, s := range everyService() {
		state.SetServingStatus(s, grpc_health_v1.HealthCheckResponse_SERVING)
	}
	if code, text := ask(); code != 0 {
		t.Errorf("a healthy server: exit code %d\n%s", code, text)
	}
	state.SetServingStatus("waybill.order.v1.OrderService", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	if code, text := ask("--json"); code != 1 || !strings.Contains(text, "waybill.order.v1.OrderService cannot take calls") {
		t.Errorf("one service is not ready: exit code %d\n%s", code, text)
	}
	if code, text := ask("waybill.user.v1.UserService"); code != 0 {
		t.Errorf("only the others were asked for: exit code %d\n%s", code, text)
	}
}
