package gateway

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/rpc"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
)

type watchStream = grpc.ServerStreamingServer[orderv1.WatchOrderResponse]

// entries sends n messages after the one in.ResumeToken names.
func entries(n int) func(*orderv1.WatchOrderRequest, watchStream) error {
	return func(in *orderv1.WatchOrderRequest, out watchStream) error {
		from := 0
		if in.GetResumeToken() != "" {
			if _, err := fmt.Sscanf(in.GetResumeToken(), "tok-%d", &from); err != nil {
				return rpc.Status(errs.E(errs.Invalid, "BAD_TOKEN", "resume_token: is not one of this stream"), "").Err()
			}
		}
		for i := from + 1; i <= n; i++ {
			if err := out.Send(message(i)); err != nil {
				return err
			}
		}
		return nil
	}
}

func message(i int) *orderv1.WatchOrderResponse {
	return &orderv1.WatchOrderResponse{Order: &orderv1.Order{OrderId: orderID, UserId: fmt.Sprintf("two\nlines %d", i)}, ResumeToken: fmt.Sprintf("tok-%d", i)}
}

// event is one server-sent event, as the standard reads it.
type event struct{ id, name, data, comment string }

// events reads events as they come.
type events struct {
	resp   *http.Response
	lines  *bufio.Scanner
	cancel context.CancelFunc
}

func (w *world) open(t *testing.T, path string, headers ...string) *events {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", w.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ": ")
		req.Header.Add(k, v)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = resp.Body.Close() })
	return &events{resp, bufio.NewScanner(resp.Body), cancel}
}

// next gives the next event; false when the stream has ended.
func (e *events) next() (event, bool) {
	var ev event
	some := false
	for e.lines.Scan() {
		line := e.lines.Text()
		if line == "" {
			if some {
				return ev, true
			}
			continue
		}
		some = true
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "id":
			ev.id = value
		case "event":
			ev.name = value
		case "data":
			ev.data += value
		case "":
			ev.comment = ":" + value
		case "retry":
			some = ev != event{}
		default:
			ev.name = "nonsense: " + line
		}
	}
	return ev, some
}

const acceptEvents = "Accept: text/event-stream"

const watchPath = "/v1/orders/" + orderID + ":watch"

func TestAStreamIsServerSentEventsForThoseWhoAcceptThem(t *testing.T) {
	eachWay(t, nil, func(t *testing.T, w *world) {
		w.watch = entries(3)
		s := w.open(t, watchPath, "Accept: text/html, text/event-stream;q=0.9")
		if got := s.resp.Header.Get("Content-Type"); s.resp.StatusCode != 200 || got != "text/event-stream" || s.resp.Header.Get("Cache-Control") != "no-store" {
			t.Fatalf("%d %v", s.resp.StatusCode, s.resp.Header)
		}
		for i := 1; i <= 3; i++ {
			ev, ok := s.next()
			var m orderv1.WatchOrderResponse
			if err := protojson.Unmarshal([]byte(ev.data), &m); err != nil {
				t.Fatalf("%+v: %v", ev, err)
			}
			if !ok || ev.id != fmt.Sprintf("tok-%d", i) || ev.name != "message" || m.GetOrder().GetUserId() != fmt.Sprintf("two\nlines %d", i) {
				t.Errorf("%d: %+v", i, ev)
			}
		}
		if ev, ok := s.next(); !ok || ev.name != "end" || ev.data != "{}" || ev.id != "" {
			t.Errorf("no end: %+v", ev)
		}
		if ev, ok := s.next(); ok {
			t.Errorf("something after the end: %+v", ev)
		}
	})
}

func TestAStreamIsOneObjectPerLineForOthers(t *testing.T) {
	eachWay(t, nil, func(t *testing.T, w *world) {
		w.watch = func(in *orderv1.WatchOrderRequest, out watchStream) error {
			if err := entries(2)(in, out); err != nil {
				return err
			}
			return rpc.Status(errs.E(errs.Unavailable, "STREAM_EXPIRED", "open it anew"), "").Err()
		}
		s := w.open(t, watchPath)
		if got := s.resp.Header.Get("Content-Type"); got != "application/x-ndjson" {
			t.Errorf("content type %q", got)
		}
		var lines []string
		for s.lines.Scan() {
			lines = append(lines, s.lines.Text())
		}
		if len(lines) != 3 || !strings.HasPrefix(lines[0], `{"result":{`) || !strings.HasPrefix(lines[2], `{"error":{`) || !strings.Contains(lines[2], "STREAM_EXPIRED") {
			t.Errorf("got %q", lines)
		}
	})
}

func TestLastEventIDResumesWithoutAGap(t *testing.T) {
	eachWay(t, nil, func(t *testing.T, w *world) {
		w.watch = entries(5)
		var ids []string
		last := ""
		for range 3 { // two events at a time, then the connection is cut
			headers := []string{acceptEvents}
			if last != "" {
				headers = append(headers, "Last-Event-ID: "+last)
			}
			s := w.open(t, watchPath, headers...)
			for range 2 {
				if ev, ok := s.next(); ok && ev.name == "message" {
					ids, last = append(ids, ev.id), ev.id
				}
			}
			s.cancel()
		}
		if got := strings.Join(ids, " "); got != "tok-1 tok-2 tok-3 tok-4 tok-5" {
			t.Errorf("got %s", got)
		}
	})
}

func TestTheHeaderIsNewerThanTheQuery(t *testing.T) {
	w := newWorld(t, (*stub).inProcess, nil)
	w.watch = entries(5)
	s := w.open(t, watchPath+"?resume_token=tok-1", acceptEvents, "Last-Event-ID: tok-3")
	if ev, _ := s.next(); ev.id != "tok-4" {
		t.Errorf("got %+v", ev)
	}
	s = w.open(t, watchPath+"?resume_token=tok-1", acceptEvents)
	if ev, _ := s.next(); ev.id != "tok-2" {
		t.Errorf("got %+v", ev)
	}
}

func TestAnErrorBeforeTheFirstMessageIsAnOrdinaryAnswer(t *testing.T) {
	eachWay(t, nil, func(t *testing.T, w *world) {
		w.watch = func(*orderv1.WatchOrderRequest, watchStream) error {
			return rpc.Status(errs.E(errs.NotFound, "ORDER_NOT_FOUND", "there is no such order"), "").Err()
		}
		for _, accept := range []string{acceptEvents, "Accept: application/json"} {
			a := w.do(t, "GET", watchPath, "", accept)
			if a.status != 404 || a.reason() != "ORDER_NOT_FOUND" || a.header.Get("Content-Type") != "application/json" {
				t.Errorf("%s: %d %s %v", accept, a.status, a.body, a.header)
			}
		}
		w.watch = entries(1)
		if a := w.do(t, "GET", watchPath, "", acceptEvents, "Last-Event-ID: junk"); a.status != 400 || a.reason() != "BAD_TOKEN" {
			t.Errorf("%d %s", a.status, a.body)
		}
		if a := w.do(t, "GET", watchPath+"?nonsense=1", "", acceptEvents); a.status != 400 {
			t.Errorf("%d %s", a.status, a.body)
		}
	})
}

func TestALaterErrorIsAnEvent(t *testing.T) {
	eachWay(t, nil, func(t *testing.T, w *world) {
		w.watch = func(in *orderv1.WatchOrderRequest, out watchStream) error {
			if err := out.Send(message(1)); err != nil {
				return err
			}
			return rpc.Status(errs.E(errs.Unavailable, "SERVER_STOPPING", "try again").WithRetryAfter(time.Second), "").Err()
		}
		s := w.open(t, watchPath, acceptEvents)
		if ev, _ := s.next(); ev.id != "tok-1" {
			t.Errorf("got %+v", ev)
		}
		ev, ok := s.next()
		if !ok || ev.name != "error" || !strings.Contains(ev.data, `"status":"UNAVAILABLE"`) || !strings.Contains(ev.data, "SERVER_STOPPING") {
			t.Errorf("got %+v", ev)
		}
		if ev, ok := s.next(); ok {
			t.Errorf("something after the error: %+v", ev)
		}
	})
}

func TestAStreamWithoutMessagesEndsInOrder(t *testing.T) {
	eachWay(t, nil, func(t *testing.T, w *world) {
		w.watch = entries(0)
		s := w.open(t, watchPath, acceptEvents)
		if ev, ok := s.next(); !ok || ev.name != "end" || s.resp.StatusCode != 200 {
			t.Errorf("%d %+v", s.resp.StatusCode, ev)
		}
		if a := w.do(t, "GET", watchPath, ""); a.status != 200 || a.body != "" {
			t.Errorf("%d %q", a.status, a.body)
		}
	})
}

func TestEachMessageIsThereBeforeTheNextIsSent(t *testing.T) {
	eachWay(t, nil, func(t *testing.T, w *world) {
		next := make(chan int)
		w.watch = func(_ *orderv1.WatchOrderRequest, out watchStream) error {
			for i := range next {
				if err := out.Send(message(i)); err != nil {
					return err
				}
			}
			return nil
		}
		var s *events
		for i := range 3 {
			if i == 0 {
				go func() { next <- 0 }() // the headers come with the first message
				s = w.open(t, watchPath, acceptEvents)
			} else {
				next <- i
			}
			if ev, ok := s.next(); !ok || ev.id != fmt.Sprintf("tok-%d", i) {
				t.Fatalf("%d: %+v", i, ev)
			}
		}
		close(next)
	})
}

func TestASignOfLifeIsSentWhileNothingHappens(t *testing.T) {
	ticks := make(chan time.Time)
	stopped := make(chan struct{})
	w := newWorld(t, (*stub).inProcess, func(c *Config, _ *ServerConfig) {
		c.Heartbeat = 15 * time.Second
		c.NewTicker = func(d time.Duration) (<-chan time.Time, func()) {
			if d != 15*time.Second {
				t.Errorf("every %v", d)
			}
			return ticks, func() { close(stopped) }
		}
	})
	send := make(chan struct{})
	w.watch = func(_ *orderv1.WatchOrderRequest, out watchStream) error {
		<-send
		return out.Send(message(1))
	}
	go func() { ticks <- time.Time{} }()
	s := w.open(t, watchPath, acceptEvents) // the sign of life brings the headers
	if ev, ok := s.next(); !ok || ev.comment != ":" || ev.data != "" {
		t.Errorf("got %+v", ev)
	}
	ticks <- time.Time{}
	if ev, ok := s.next(); !ok || ev.comment != ":" {
		t.Errorf("got %+v", ev)
	}
	close(send)
	if ev, _ := s.next(); ev.id != "tok-1" {
		t.Errorf("got %+v", ev)
	}
	if _, err := io.ReadAll(s.resp.Body); err != nil {
		t.Error(err)
	}
	<-stopped
}

func TestTheCallEndsWhenTheClientGoes(t *testing.T) {
	eachWay(t, nil, func(t *testing.T, w *world) {
		for _, accept := range []string{acceptEvents, "Accept: */*"} {
			ended := make(chan error, 1)
			w.watch = func(_ *orderv1.WatchOrderRequest, out watchStream) error {
				if err := out.Send(message(1)); err != nil {
					return err
				}
				<-out.Context().Done()
				ended <- out.Context().Err()
				return out.Context().Err()
			}
			s := w.open(t, watchPath, accept)
			if !s.lines.Scan() {
				t.Fatal("nothing came")
			}
			s.cancel()
			if err := <-ended; err == nil {
				t.Error("no error")
			}
		}
	})
}

func TestAStreamHasNoEndUnlessTheClientSetsOne(t *testing.T) {
	w := newWorld(t, (*stub).inProcess, func(c *Config, _ *ServerConfig) { c.Timeout = time.Nanosecond; c.MaxTimeout = time.Nanosecond })
	w.watch = entries(2)
	s := w.open(t, watchPath, acceptEvents)
	if ev, _ := s.next(); ev.id != "tok-1" {
		t.Errorf("got %+v", ev)
	}
	w.watch = func(_ *orderv1.WatchOrderRequest, out watchStream) error {
		if err := out.Send(message(1)); err != nil {
			return err
		}
		<-out.Context().Done()
		return rpc.Status(out.Context().Err(), "").Err()
	}
	s = w.open(t, watchPath, acceptEvents, "Grpc-Timeout: 50m")
	if ev, _ := s.next(); ev.id != "tok-1" {
		t.Errorf("got %+v", ev)
	}
	if ev, _ := s.next(); ev.name != "error" || !strings.Contains(ev.data, "DEADLINE_EXCEEDED") {
		t.Errorf("got %+v", ev)
	}
}

func TestATokenCannotBreakOutOfItsLine(t *testing.T) {
	w := newWorld(t, (*stub).inProcess, nil)
	w.watch = func(_ *orderv1.WatchOrderRequest, out watchStream) error {
		m := message(1)
		m.ResumeToken = "x\r\ndata: forged\n\n"
		return out.Send(m)
	}
	s := w.open(t, watchPath, acceptEvents)
	if ev, _ := s.next(); ev.id != "" || !strings.HasPrefix(ev.data, "{") {
		t.Errorf("got %+v", ev)
	}
	if ev, _ := s.next(); ev.name != "end" {
		t.Errorf("got %+v", ev)
	}
}

func TestStreamsAreSentElsewhereWhenTheServerStopsAndOtherCallsFinish(t *testing.T) {
	w := newWorld(t, (*stub).inProcess, nil)
	inside, finish := make(chan struct{}), make(chan struct{})
	w.block = func() { close(inside); <-finish }
	w.watch = func(_ *orderv1.WatchOrderRequest, out watchStream) error {
		if err := out.Send(message(1)); err != nil {
			return err
		}
		<-out.Context().Done()
		return out.Context().Err()
	}
	s := w.open(t, watchPath, acceptEvents)
	if ev, _ := s.next(); ev.id != "tok-1" {
		t.Errorf("got %+v", ev)
	}
	unary := make(chan answer, 1)
	go func() { unary <- w.do(t, "GET", "/v1/orders/"+orderID, "") }()
	<-inside
	stopped := make(chan error, 1)
	go func() { stopped <- w.gateway.Shutdown(context.Background(), w.server) }()
	if ev, _ := s.next(); ev.name != "error" || !strings.Contains(ev.data, "SERVER_STOPPING") {
		t.Errorf("got %+v", ev)
	}
	close(finish)
	if a := <-unary; a.status != 200 {
		t.Errorf("the other call: %d %s", a.status, a.body)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestWhatDoesNotFinishInTimeIsCut(t *testing.T) {
	w := newWorld(t, (*stub).inProcess, nil)
	inside := make(chan struct{})
	w.slow, w.block = true, func() { close(inside) }
	gone := make(chan error, 1)
	go func() {
		_, err := w.client.Get(w.url + "/v1/orders/" + orderID)
		gone <- err
	}()
	<-inside
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.gateway.Shutdown(ctx, w.server); err == nil {
		t.Error("no error")
	}
	if err := <-gone; err == nil {
		t.Error("the call was answered")
	}
}
