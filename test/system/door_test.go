package system_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

// An answer is what came of a call, whichever way it was made.
type answer struct {
	code    codes.Code
	http    int // 0 over gRPC
	reason  string
	message string
	fields  map[string]string // problems by path
	retry   time.Duration
	header  http.Header // over REST
	body    []byte      // over REST as it came, over gRPC the message
	text    string      // all that the caller could read of an error
}

// A door is a way into a process.
type door interface {
	String() string
	// call makes a unary call; the token is sent as it is, "" sends none.
	call(ctx context.Context, w *world, token, method string, req, resp proto.Message) (answer, error)
}

var doors = []door{grpcDoor{}, restDoor{}}

// throughBoth runs a test through one door after the other.
func throughBoth(t *testing.T, test func(t *testing.T, d door)) {
	t.Helper()
	for _, d := range doors {
		t.Run(d.String(), func(t *testing.T) { test(t, d) })
	}
}

type headersKey struct{}

// withHeaders lets a call through either door carry more headers: name, value, …
func withHeaders(ctx context.Context, nameValue ...string) context.Context {
	return context.WithValue(ctx, headersKey{}, nameValue)
}

func headers(ctx context.Context) []string {
	h, _ := ctx.Value(headersKey{}).([]string)
	return h
}

type grpcDoor struct{}

func (grpcDoor) String() string { return "gRPC" }

func (grpcDoor) call(ctx context.Context, w *world, token, method string, req, resp proto.Message) (answer, error) {
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	ctx = metadata.AppendToOutgoingContext(ctx, headers(ctx)...)
	if err := w.conn.Invoke(ctx, method, req, resp); err != nil {
		return ofStatus(err), nil
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(resp)
	return answer{body: b}, err
}

// ofStatus reads the error of a gRPC call.
func ofStatus(err error) answer {
	st := status.Convert(err)
	a := answer{code: st.Code(), message: st.Message(), fields: map[string]string{}, text: st.Proto().String()}
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			a.reason = d.GetReason()
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				a.fields[v.GetField()] = v.GetDescription()
			}
		case *errdetails.RetryInfo:
			a.retry = d.GetRetryDelay().AsDuration()
		}
	}
	return a
}

type restDoor struct{}

func (restDoor) String() string { return "REST" }

func (restDoor) call(ctx context.Context, w *world, token, method string, req, resp proto.Message) (answer, error) {
	verb, path, key, body, err := asREST(method, req)
	if err != nil {
		return answer{}, err
	}
	r, err := http.NewRequestWithContext(ctx, verb, w.base+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if len(body) > 0 {
		r.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	for h := headers(ctx); len(h) > 0; h = h[2:] {
		r.Header.Add(h[0], h[1])
	}
	a, err := w.do(r)
	if err == nil && a.http == http.StatusOK && resp != nil {
		err = protojson.Unmarshal(a.body, resp)
	}
	return a, err
}

// do sends a request that a test has made itself.
func (w *world) do(r *http.Request) (answer, error) {
	resp, err := w.web.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, err
	}
	return ofResponse(resp, body), nil
}

// post sends a body as it is.
func (w *world) post(t *testing.T, u *user, path, body string, nameValue ...string) answer {
	t.Helper()
	return w.send(t, u, http.MethodPost, path, body, nameValue...)
}

// send makes an HTTP request of whatever a test comes up with.
func (w *world) send(t *testing.T, u *user, method, path, body string, nameValue ...string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(soon(t), method, w.base+path, strings.NewReader(body))
	must(t, err)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if u != nil {
		r.Header.Set("Authorization", "Bearer "+u.token)
	}
	for ; len(nameValue) > 0; nameValue = nameValue[2:] {
		if nameValue[0] == "Content-Type" {
			r.Header.Del("Content-Type")
		}
		r.Header.Add(nameValue[0], nameValue[1])
	}
	a, err := w.do(r)
	must(t, err)
	return a
}

// ofResponse reads an HTTP answer.
func ofResponse(resp *http.Response, body []byte) answer {
	a := answer{http: resp.StatusCode, header: resp.Header, body: body, fields: map[string]string{}}
	if resp.StatusCode/100 == 2 {
		return a
	}
	a.text = string(body)
	a.ofJSON(body)
	return a
}

// ofJSON reads an error as the gateway writes it.
func (a *answer) ofJSON(body []byte) {
	var s struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
		Details []struct {
			Reason          string `json:"reason"`
			RetryDelay      string `json:"retry_delay"`
			FieldViolations []struct {
				Field       string `json:"field"`
				Description string `json:"description"`
			} `json:"field_violations"`
		} `json:"details"`
	}
	if json.Unmarshal(body, &s) != nil {
		a.code, a.message = codes.Unknown, string(body)
		return
	}
	a.code, a.message = codes.Code(s.Code), s.Message
	for _, d := range s.Details {
		if d.Reason != "" {
			a.reason = d.Reason
		}
		if wait, err := time.ParseDuration(d.RetryDelay); err == nil {
			a.retry = wait
		}
		for _, v := range d.FieldViolations {
			a.fields[v.Field] = v.Description
		}
	}
}

var variable = regexp.MustCompile(`\{([a-z_]+)\}`)

// asREST writes a call as the contract's annotations say.
func asREST(method string, req proto.Message) (verb, path, key string, body []byte, err error) {
	m, err := methodOf(method)
	if err != nil {
		return "", "", "", nil, err
	}
	rule, _ := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule)
	switch p := rule.GetPattern().(type) {
	case *annotations.HttpRule_Get:
		verb, path = http.MethodGet, p.Get
	case *annotations.HttpRule_Post:
		verb, path = http.MethodPost, p.Post
	case *annotations.HttpRule_Patch:
		verb, path = http.MethodPatch, p.Patch
	case *annotations.HttpRule_Delete:
		verb, path = http.MethodDelete, p.Delete
	default:
		return "", "", "", nil, fmt.Errorf("%s has no REST path", method)
	}
	rest := proto.Clone(req).ProtoReflect()
	take := func(name string) protoreflect.Value {
		f := rest.Descriptor().Fields().ByName(protoreflect.Name(name))
		v := rest.Get(f)
		rest.Clear(f)
		return v
	}
	path = variable.ReplaceAllStringFunc(path, func(v string) string { return url.PathEscape(take(strings.Trim(v, "{}")).String()) })
	if rest.Descriptor().Fields().ByName("request_id") != nil {
		key = take("request_id").String()
	}
	options := protojson.MarshalOptions{UseProtoNames: true}
	switch rule.GetBody() {
	case "":
	case "*":
		body, err = options.Marshal(rest.Interface())
		return verb, path, key, body, err
	default:
		switch v := take(rule.GetBody()).Interface().(type) {
		case []byte: // as it is
			body = v
		case protoreflect.Message:
			if body, err = options.Marshal(v.Interface()); err != nil {
				return "", "", "", nil, err
			}
		}
	}
	if q := query(rest); len(q) > 0 {
		path += "?" + q.Encode()
	}
	return verb, path, key, body, nil
}

// query writes what is left of a message as parameters.
func query(m protoreflect.Message) url.Values {
	q := url.Values{}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		name := string(f.Name())
		switch {
		case f.IsList():
			for i := range v.List().Len() {
				q.Add(name, v.List().Get(i).String())
			}
		case f.Message() != nil:
			q.Set(name, textOf(v.Message().Interface()))
		case f.Enum() != nil:
			q.Set(name, fmt.Sprint(v.Enum()))
		default:
			q.Set(name, v.String())
		}
		return true
	})
	return q
}

// textOf writes a mask or a timestamp as a parameter.
func textOf(m proto.Message) string {
	if mask, ok := m.(*fieldmaskpb.FieldMask); ok {
		return strings.Join(mask.GetPaths(), ",")
	}
	b, err := protojson.Marshal(m)
	if err != nil {
		return err.Error()
	}
	return strings.Trim(string(b), `"`)
}

// methodOf finds "/waybill.order.v1.OrderService/GetOrder" in the contract.
func methodOf(name string) (protoreflect.MethodDescriptor, error) {
	full := protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(name, "/"), "/", "."))
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(full)
	if err != nil {
		return nil, err
	}
	m, ok := d.(protoreflect.MethodDescriptor)
	if !ok {
		return nil, fmt.Errorf("%s is no method", name)
	}
	return m, nil
}

// ask makes a call that must succeed; a request_id that is missing is made up.
func ask[M proto.Message](t *testing.T, d door, w *world, u *user, method string, req proto.Message, resp M) M {
	t.Helper()
	a := try(t, d, w, u, method, req, resp)
	if a.code != codes.OK || a.http != 0 && a.http != http.StatusOK {
		t.Fatalf("%s over %s: %d %s %s: %s %v", method, d, a.http, a.code, a.reason, a.message, a.fields)
	}
	return resp
}

// try makes a call and gives what came of it. resp may be nil.
func try(t *testing.T, d door, w *world, u *user, method string, req, resp proto.Message) answer {
	t.Helper()
	if resp == nil {
		m, err := methodOf(method)
		must(t, err)
		mt, err := protoregistry.GlobalTypes.FindMessageByName(m.Output().FullName())
		must(t, err)
		resp = mt.New().Interface()
	}
	token := ""
	if u != nil {
		token = u.token
	}
	a, err := d.call(soon(t), w, token, method, keyed(req), resp)
	must(t, err)
	return a
}

// insist makes a call again that ran out of time, as many at once do on a busy
// machine. The request has a request_id, so that it is done once.
func insist(ctx context.Context, d door, w *world, token, method string, req, resp proto.Message) (answer, error) {
	for {
		proto.Reset(resp)
		a, err := d.call(ctx, w, token, method, req, resp)
		if err != nil || a.code != codes.DeadlineExceeded && a.code != codes.Unavailable || ctx.Err() != nil {
			return a, err
		}
	}
}

// keyed gives the request with a fresh request_id if it wants one and has none.
func keyed(req proto.Message) proto.Message {
	f := req.ProtoReflect().Descriptor().Fields().ByName("request_id")
	if f == nil || req.ProtoReflect().Get(f).String() != "" {
		return req
	}
	req = proto.Clone(req)
	req.ProtoReflect().Set(f, protoreflect.ValueOfString(newKey()))
	return req
}
