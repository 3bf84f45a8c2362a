package gateway

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"

	"go.opentelemetry.io/otel/metric"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/waybill-dev/waybill/platform/errs"
	optionsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/options/v1"
)

// route is what the contract says of one HTTP method and path.
type route struct {
	httpMethod string
	path       string   // as the contract writes it: /v1/orders/{order_id}:cancel
	segments   []string // "" for a variable
	verb       string
	pathFields []pathField

	rpc       string // full method name, as grpc.ClientConnInterface takes it
	conn      grpc.ClientConnInterface
	in        protoreflect.MessageDescriptor
	inType    protoreflect.MessageType
	outType   protoreflect.MessageType
	streaming bool // the server streams

	bodyField string                         // "*", the name of a field, or "" for none
	body      protoreflect.MessageDescriptor // what the JSON of the body must be; nil when there is none
	bodyIn    protoreflect.FieldDescriptor   // what bodyField names
	mask      protoreflect.FieldDescriptor   // of a PATCH: the field mask that says which fields of the body are meant
	raw       *rawBody

	requestID   protoreflect.FieldDescriptor // of a KEYED method's request; nil for others
	resume      protoreflect.FieldDescriptor // of the request; nil if it cannot be resumed
	resumeToken protoreflect.FieldDescriptor // of the response; nil if it has none

	good atomic.Pointer[[]metric.RecordOption] // attributes of the usual reading
}

// rawBody is a body that is handed on byte by byte.
type rawBody struct {
	field, headerField protoreflect.FieldDescriptor
	header             string
}

// pathField is a field that the path has.
type pathField struct {
	name string
	text protoreflect.FieldDescriptor // nil if it is no plain text of the request itself
}

// findRoutes reads the REST paths of the services from the contract.
func findRoutes(services []Service) ([]*route, error) {
	var out []*route
	for _, s := range services {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(s.Name))
		if err != nil {
			return nil, fmt.Errorf("gateway: service %s: %w", s.Name, err)
		}
		sd, ok := d.(protoreflect.ServiceDescriptor)
		if !ok || s.Conn == nil {
			return nil, fmt.Errorf("gateway: %s is no service, or has no Conn", s.Name)
		}
		for i := range sd.Methods().Len() {
			m := sd.Methods().Get(i)
			rule, _ := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule)
			if rule == nil {
				continue
			}
			for _, binding := range append([]*annotations.HttpRule{rule}, rule.GetAdditionalBindings()...) {
				r, err := newRoute(m, binding)
				if err != nil {
					return nil, fmt.Errorf("gateway: %s: %w", m.FullName(), err)
				}
				r.conn = s.Conn
				out = append(out, r)
			}
		}
	}
	return out, nil
}

var pathVariable = regexp.MustCompile(`\{([^{}=]+)(?:=[^{}]*)?\}`)

// newRoute reads one binding of a method.
func newRoute(m protoreflect.MethodDescriptor, rule *annotations.HttpRule) (*route, error) {
	r := &route{
		rpc: fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name()), in: m.Input(),
		streaming: m.IsStreamingServer(), bodyField: rule.GetBody(),
	}
	switch p := rule.GetPattern().(type) {
	case *annotations.HttpRule_Get:
		r.httpMethod, r.path = http.MethodGet, p.Get
	case *annotations.HttpRule_Post:
		r.httpMethod, r.path = http.MethodPost, p.Post
	case *annotations.HttpRule_Put:
		r.httpMethod, r.path = http.MethodPut, p.Put
	case *annotations.HttpRule_Patch:
		r.httpMethod, r.path = http.MethodPatch, p.Patch
	case *annotations.HttpRule_Delete:
		r.httpMethod, r.path = http.MethodDelete, p.Delete
	default:
		return nil, fmt.Errorf("its http rule has no method this gateway knows")
	}
	if m.IsStreamingClient() {
		return nil, fmt.Errorf("a method whose client streams has no REST form")
	}
	for _, v := range pathVariable.FindAllStringSubmatch(r.path, -1) {
		f := pathField{name: v[1]}
		if fd := m.Input().Fields().ByName(protoreflect.Name(v[1])); fd != nil && fd.Kind() == protoreflect.StringKind && !fd.IsList() {
			f.text = fd
		}
		r.pathFields = append(r.pathFields, f)
	}
	r.split()
	return r, r.readOptions(m)
}

// split takes the path apart.
func (r *route) split() {
	path := pathVariable.ReplaceAllString(r.path, "")
	if i := strings.LastIndexByte(path, ':'); i > strings.LastIndexByte(path, '/') {
		path, r.verb = path[:i], path[i+1:]
	}
	r.segments = strings.Split(path, "/")[1:]
}

// readOptions reads what the contract's own options say.
func (r *route) readOptions(m protoreflect.MethodDescriptor) error {
	var err error
	if r.inType, err = protoregistry.GlobalTypes.FindMessageByName(m.Input().FullName()); err != nil {
		return err
	}
	if r.outType, err = protoregistry.GlobalTypes.FindMessageByName(m.Output().FullName()); err != nil {
		return err
	}
	if raw, _ := proto.GetExtension(m.Options(), optionsv1.E_RawBody).(*optionsv1.RawBody); raw != nil {
		fields := m.Input().Fields()
		r.raw = &rawBody{
			field: fields.ByName(protoreflect.Name(raw.GetBodyField())), header: http.CanonicalHeaderKey(raw.GetHeader()),
			headerField: fields.ByName(protoreflect.Name(raw.GetHeaderField())),
		}
		if r.raw.field == nil || r.raw.header != "" && r.raw.headerField == nil {
			return fmt.Errorf("its raw_body option names a field that does not exist")
		}
		return nil
	}
	switch r.bodyField {
	case "":
	case "*":
		r.body = m.Input()
	default:
		f := m.Input().Fields().ByName(protoreflect.Name(r.bodyField))
		if f == nil || f.Message() == nil || f.IsList() || f.IsMap() {
			return fmt.Errorf("its body %q is no field with a message", r.bodyField)
		}
		r.body, r.bodyIn = f.Message(), f
		if r.httpMethod == http.MethodPatch {
			r.mask = fieldMask(m.Input())
		}
	}
	if kind, _ := proto.GetExtension(m.Options(), optionsv1.E_Idempotency).(optionsv1.Idempotency); kind == optionsv1.Idempotency_IDEMPOTENCY_KEYED {
		if f := m.Input().Fields().ByName("request_id"); f != nil && f.Kind() == protoreflect.StringKind && !f.IsList() {
			r.requestID = f
		}
	}
	r.resume, r.resumeToken = resumeField(m.Input()), resumeField(m.Output())
	return nil
}

// fieldMask gives the field of a request that is a field mask.
func fieldMask(md protoreflect.MessageDescriptor) protoreflect.FieldDescriptor {
	for i := range md.Fields().Len() {
		if f := md.Fields().Get(i); f.Message() != nil && f.Message().FullName() == "google.protobuf.FieldMask" && !f.IsList() {
			return f
		}
	}
	return nil
}

// resumeField gives the field that resumes a stream.
func resumeField(md protoreflect.MessageDescriptor) protoreflect.FieldDescriptor {
	for i := range md.Fields().Len() {
		f := md.Fields().Get(i)
		if on, _ := proto.GetExtension(f.Options(), optionsv1.E_ResumeToken).(bool); on && f.Kind() == protoreflect.StringKind {
			return f
		}
	}
	return nil
}

// check holds path, query and body against the contract.
func (r *route) check(c *call, req *http.Request, values []string) error {
	for i, v := range values {
		if !isText(v) {
			return badField(r.pathFields[i].name, "must be text in UTF-8 without the character NUL")
		}
	}
	if req.URL.RawQuery != "" {
		if err := r.checkQuery(req.URL.RawQuery); err != nil {
			return err
		}
	}
	if r.raw != nil {
		return nil
	}
	if r.body == nil {
		if len(c.body) > 0 {
			return errs.E(errs.Invalid, "UNEXPECTED_BODY", "%s %s takes no body", r.httpMethod, r.path)
		}
		return nil
	}
	if len(c.body) == 0 {
		return nil // an empty message, which the rules of its fields judge
	}
	if err := checkContentType(c.sent); err != nil {
		return err
	}
	var bound []string
	if r.bodyField == "*" {
		bound = values
	}
	if v := checkJSON(c.body, r.body, r.pathFields[:len(bound)], bound); v != nil {
		return v.error()
	}
	return nil
}

// tokenParameters are names under which people put access tokens into URLs, where logs would keep them.
var tokenParameters = []string{"access_token", "token", "authorization", "bearer"}

// checkQuery wants every parameter to be a field of the request that is neither
// in the path nor in the body, with a value of its type.
func (r *route) checkQuery(raw string) error {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return errs.E(errs.Invalid, "INVALID_QUERY", "the query cannot be decoded")
	}
	for name, vs := range values {
		f, problem := r.queryField(name)
		if f == nil {
			if slices.Contains(tokenParameters, strings.ToLower(name)) {
				return errs.E(errs.Unauthenticated, "TOKEN_IN_QUERY", "send the access token in the header Authorization: Bearer …, not in the URL")
			}
			return badQuery(name, problem)
		}
		if len(vs) > 1 && !f.IsList() {
			return badQuery(name, "must be given once")
		}
		for _, v := range vs {
			if problem := checkScalar(f, v); problem != "" {
				return badQuery(name, problem)
			}
		}
	}
	return nil
}

// queryField finds the field a parameter names, or says why there is none.
func (r *route) queryField(name string) (protoreflect.FieldDescriptor, string) {
	if r.bodyField == "*" {
		return nil, "is unknown: this method takes no query parameters"
	}
	md := r.in
	var f protoreflect.FieldDescriptor
	full := ""
	for part := range strings.SplitSeq(name, ".") {
		if f != nil {
			if md = f.Message(); md == nil || f.IsList() || f.IsMap() {
				return nil, "is unknown"
			}
			full += "."
		}
		if f = fieldByName(md, part); f == nil {
			return nil, "is unknown" + didYouMean(md, part)
		}
		full += string(f.Name())
	}
	switch {
	case slices.ContainsFunc(r.pathFields, func(p pathField) bool { return p.name == full }):
		return nil, "is part of the path and cannot be a query parameter"
	case r.bodyField != "" && (full == r.bodyField || strings.HasPrefix(full, r.bodyField+".")):
		return nil, "is part of the body and cannot be a query parameter"
	case f.IsMap(), f.Message() != nil && !isScalarMessage(f.Message()):
		return nil, "cannot be a query parameter, only the fields in it"
	}
	return f, ""
}

// fieldByName finds a field by either of its names in JSON.
func fieldByName(md protoreflect.MessageDescriptor, name string) protoreflect.FieldDescriptor {
	if f := md.Fields().ByTextName(name); f != nil {
		return f
	}
	return md.Fields().ByJSONName(name)
}

func badField(path, problem string) error {
	return errs.E(errs.Invalid, "INVALID_REQUEST", "%s: %s", path, problem).WithFields(errs.Field{Path: path, Problem: problem})
}

func badQuery(name, problem string) error {
	if !isText(name) || len(name) > 64 {
		name = "(unreadable)"
	}
	return errs.E(errs.Invalid, "INVALID_QUERY", "query parameter %s: %s", name, problem).WithFields(errs.Field{Path: name, Problem: problem})
}
