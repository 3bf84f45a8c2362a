package rpc

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/metric"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	optionsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/options/v1"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/errs"
)

// requestID is the field that makes a call repeatable.
const requestID = "request_id"

// method is what the server knows of a method before the first call.
type method struct {
	name    string // "/waybill.order.v1.OrderService/PlaceOrder"
	input   protoreflect.MessageDescriptor
	stream  bool
	inbound bool // the client sends a stream
	endless bool // a stream that goes on until somebody ends it, and can be resumed elsewhere
	access  access
	keyed   protoreflect.FieldDescriptor // request_id, nil if the method is not KEYED
	foreign bool                         // not of our contract: it has no rules
	forward bool                         // handed on to where the service runs; the rules are kept there
	probe   bool                         // health checks: neither limited nor logged nor measured
	metrics []metric.RecordOption        // what is said of a call, by code
}

// access is the contract's `access` option, ready to be asked.
type access struct {
	public   bool
	rank     int // the least role that is let in, 0 for none
	services []string
}

// allow says whether the caller may call; known is false for the anonymous, and
// services are those that bring the call, as identity has them. Errors are
// Unauthenticated and PermissionDenied.
//
// A service other than the gateway is held to its entry in `services` whatever
// token it brings: who takes over one service has not taken over the calls of all
// people. With a token the person must be let in too, without one the entry is
// enough.
func (a access) allow(c auth.Caller, known bool, services []string) error {
	listed := slices.Contains(a.services, "*") && len(services) > 0 ||
		slices.ContainsFunc(services, func(s string) bool { return slices.Contains(a.services, s) })
	switch {
	case len(services) > 0 && !listed && !slices.Contains(services, Gateway):
		return errs.E(errs.PermissionDenied, "SERVICE_NOT_LISTED", "the contract does not let service %s call this", strings.Join(services, "+"))
	case a.public:
		return nil
	case !known:
		return errs.E(errs.Unauthenticated, "TOKEN_MISSING", "this needs an access token; sign in and send it as Authorization: Bearer <token>")
	case c.UserID != "" && a.rank > 0 && rank(c.Role) >= a.rank, c.UserID == "" && listed:
		return nil
	}
	return errs.E(errs.PermissionDenied, "NOT_ALLOWED", "this is not allowed for you")
}

// MayCall tells whether the contract lets c call a method: a person with a role, a
// service in its own name, a person through a service that brings their call, or,
// for the zero Caller, anybody. It is what a Server decides by. Errors are
// Unauthenticated and PermissionDenied, or say what the contract lacks.
func MayCall(md protoreflect.MethodDescriptor, c auth.Caller) error {
	a, err := accessOf(md)
	if err != nil {
		return fmt.Errorf("rpc: %s: %w", md.FullName(), err)
	}
	var services []string
	if c.Service != "" {
		services = []string{c.Service}
	}
	return a.allow(c, c.UserID != "" || c.Service != "", services)
}

// rank orders the roles: who ranks higher may do all that lower ones may.
func rank(r auth.Role) int {
	switch r {
	case auth.Customer:
		return int(optionsv1.Role_ROLE_CUSTOMER)
	case auth.Staff:
		return int(optionsv1.Role_ROLE_STAFF)
	case auth.Admin:
		return int(optionsv1.Role_ROLE_ADMIN)
	}
	return 0
}

// methods reads the options of every method of desc from the contract. It fails
// if one lacks them: a method that says nothing would be open to nobody, and
// that is better found out before it is deployed.
func methods(desc *grpc.ServiceDesc) (map[string]*method, error) {
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(desc.ServiceName))
	sd, ok := d.(protoreflect.ServiceDescriptor)
	if err != nil || !ok {
		return nil, fmt.Errorf("rpc: there is no contract for service %s", desc.ServiceName)
	}
	var names []string
	for _, m := range desc.Methods {
		names = append(names, m.MethodName)
	}
	for _, m := range desc.Streams {
		names = append(names, m.StreamName)
	}
	all := map[string]*method{}
	var failed error
	for _, name := range names {
		md := sd.Methods().ByName(protoreflect.Name(name))
		if md == nil {
			failed = errors.Join(failed, fmt.Errorf("rpc: %s/%s is not in the contract", desc.ServiceName, name))
			continue
		}
		m, err := newMethod(desc.ServiceName, md)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("rpc: %s/%s: %w", desc.ServiceName, name, err))
			continue
		}
		all[name] = m
	}
	return all, failed
}

func newMethod(service string, md protoreflect.MethodDescriptor) (*method, error) {
	m := &method{
		name:   "/" + service + "/" + string(md.Name()),
		input:  md.Input(),
		stream: md.IsStreamingClient() || md.IsStreamingServer(), inbound: md.IsStreamingClient(),
	}
	open := access{public: true, services: []string{"*"}}
	switch service {
	case grpc_health_v1.Health_ServiceDesc.ServiceName:
		m.access, m.foreign, m.probe = open, true, true
		m.endless = m.stream
		return m, nil
	case reflectionv1.ServerReflection_ServiceDesc.ServiceName, reflectionv1alpha.ServerReflection_ServiceDesc.ServiceName:
		m.access, m.foreign = open, true
		m.endless = true
		return m, nil
	}
	m.endless = m.stream && resumable(md.Output())
	var err error
	if m.access, err = accessOf(md); err != nil {
		return nil, err
	}
	switch idempotencyOf(md) {
	case optionsv1.Idempotency_IDEMPOTENCY_UNSPECIFIED:
		return nil, errors.New("the contract does not say what a repeated call does (option idempotency)")
	case optionsv1.Idempotency_IDEMPOTENCY_KEYED:
		m.keyed = md.Input().Fields().ByName(requestID)
		if m.keyed == nil || m.keyed.Kind() != protoreflect.StringKind || m.keyed.IsList() || m.stream {
			return nil, fmt.Errorf("a KEYED method must be unary and have a string %s", requestID)
		}
	}
	return m, nil
}

// resumable reports whether a stream of these answers can be gone on with elsewhere.
func resumable(answer protoreflect.MessageDescriptor) bool {
	for i := range answer.Fields().Len() {
		if proto.GetExtension(answer.Fields().Get(i).Options(), optionsv1.E_ResumeToken).(bool) {
			return true
		}
	}
	return false
}

func accessOf(md protoreflect.MethodDescriptor) (access, error) {
	if !proto.HasExtension(md.Options(), optionsv1.E_Access) {
		return access{}, errors.New("the contract does not say who may call it (option access)")
	}
	o := proto.GetExtension(md.Options(), optionsv1.E_Access).(*optionsv1.Access)
	a := access{public: o.GetPublic(), services: o.GetServices()}
	for _, r := range o.GetRoles() {
		if r == optionsv1.Role_ROLE_UNSPECIFIED {
			return access{}, errors.New("option access names no role")
		}
		if a.rank == 0 || int(r) < a.rank {
			a.rank = int(r)
		}
	}
	if !a.public && a.rank == 0 && len(a.services) == 0 {
		return access{}, errors.New("option access lets nobody in")
	}
	return a, nil
}

func idempotencyOf(md protoreflect.MethodDescriptor) optionsv1.Idempotency {
	return proto.GetExtension(md.Options(), optionsv1.E_Idempotency).(optionsv1.Idempotency)
}
