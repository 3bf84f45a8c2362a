// Package proto_test holds the contract to what it promises of every method, field and event, so that nothing new slips in without an answer to the questions all others have answered.
package proto_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
	"github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	"github.com/waybill-dev/waybill/proto/gen/go/waybill/ops/v1"
	"github.com/waybill-dev/waybill/proto/gen/go/waybill/options/v1"
	"github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	"github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	"github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	"github.com/waybill-dev/waybill/proto/gen/go/waybill/user/v1"
	"github.com/waybill-dev/waybill/proto/gen/openapi"
)

// unruled are the fields of requests for which every value is a good one, with the reason.
var unruled = map[protoreflect.FullName]string{
	"waybill.order.v1.AddOrders.only_saga_over": "a bool: both values mean something",
}

// eventKeys are the fields an event may be keyed by.
var eventKeys = []protoreflect.Name{"order_id", "product_id", "user_id"}

func services() []protoreflect.ServiceDescriptor {
	var all []protoreflect.ServiceDescriptor
	for _, file := range []protoreflect.FileDescriptor{
		authv1.File_waybill_auth_v1_auth_service_proto,
		userv1.File_waybill_user_v1_user_service_proto,
		opsv1.File_waybill_ops_v1_ops_service_proto,
		inventoryv1.File_waybill_inventory_v1_inventory_service_proto,
		orderv1.File_waybill_order_v1_order_service_proto,
		paymentv1.File_waybill_payment_v1_payment_service_proto,
		shippingv1.File_waybill_shipping_v1_shipping_service_proto,
	} {
		for i := range file.Services().Len() {
			all = append(all, file.Services().Get(i))
		}
	}
	return all
}

// eachMethod runs a subtest for every method of every service.
func eachMethod(t *testing.T, check func(t *testing.T, m protoreflect.MethodDescriptor)) {
	t.Helper()
	for _, service := range services() {
		for i := range service.Methods().Len() {
			method := service.Methods().Get(i)
			t.Run(string(service.Name())+"."+string(method.Name()), func(t *testing.T) { check(t, method) })
		}
	}
}

// eachField calls check for every field a caller can set in a request, those of messages inside it included.
func eachField(request protoreflect.MessageDescriptor, check func(protoreflect.FieldDescriptor)) {
	seen := map[protoreflect.FullName]bool{}
	var walk func(protoreflect.MessageDescriptor)
	walk = func(message protoreflect.MessageDescriptor) {
		if seen[message.FullName()] || message.ParentFile().Package() == "google.protobuf" {
			return
		}
		seen[message.FullName()] = true
		for i := range message.Fields().Len() {
			field := message.Fields().Get(i)
			check(field)
			if field.Message() != nil {
				walk(field.Message())
			}
		}
	}
	walk(request)
}

func access(m protoreflect.MethodDescriptor) *optionsv1.Access {
	a, _ := proto.GetExtension(m.Options(), optionsv1.E_Access).(*optionsv1.Access)
	return a
}

func idempotency(m protoreflect.MethodDescriptor) optionsv1.Idempotency {
	i, _ := proto.GetExtension(m.Options(), optionsv1.E_Idempotency).(optionsv1.Idempotency)
	return i
}

func httpRule(m protoreflect.MethodDescriptor) *annotations.HttpRule {
	rule, _ := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule)
	return rule
}

func rules(f protoreflect.FieldDescriptor) *validate.FieldRules {
	r, _ := proto.GetExtension(f.Options(), validate.E_Field).(*validate.FieldRules)
	return r
}

func stringRule(r *validate.FieldRules, extension protoreflect.ExtensionType) bool {
	on, _ := proto.GetExtension(r.GetString(), extension).(bool)
	return r.GetString() != nil && on
}

func TestEveryMethodSaysWhoMayCallIt(t *testing.T) {
	eachMethod(t, func(t *testing.T, m protoreflect.MethodDescriptor) {
		a := access(m)
		if !a.GetPublic() && len(a.GetRoles()) == 0 && len(a.GetServices()) == 0 {
			t.Error("nobody may call it: add (waybill.options.v1.access)")
		}
		if a.GetPublic() && (len(a.GetRoles()) > 0 || a.GetOwner()) {
			t.Error("it is open to anybody and to some: one of the two is not meant")
		}
		if a.GetOwner() && !slices.Contains(a.GetRoles(), optionsv1.Role_ROLE_CUSTOMER) {
			t.Error("owner says nothing when customers may not call it")
		}
		if slices.Contains(a.GetRoles(), optionsv1.Role_ROLE_UNSPECIFIED) {
			t.Error("no role is not a role")
		}
		if len(a.GetRoles()) > 0 && !slices.Contains(a.GetRoles(), optionsv1.Role_ROLE_ADMIN) {
			t.Error("admins may do all that others may")
		}
	})
}

func TestEveryMethodSaysWhatASecondCallDoes(t *testing.T) {
	eachMethod(t, func(t *testing.T, m protoreflect.MethodDescriptor) {
		if idempotency(m) == optionsv1.Idempotency_IDEMPOTENCY_UNSPECIFIED {
			t.Error("add (waybill.options.v1.idempotency)")
		}
		if rule := httpRule(m); rule.GetGet() != "" && idempotency(m) != optionsv1.Idempotency_IDEMPOTENCY_READ {
			t.Error("GET must change nothing")
		}
	})
}

func TestEveryKeyedMethodTakesAKey(t *testing.T) {
	keyed := 0
	eachMethod(t, func(t *testing.T, m protoreflect.MethodDescriptor) {
		field := m.Input().Fields().ByName("request_id")
		if is := idempotency(m) == optionsv1.Idempotency_IDEMPOTENCY_KEYED; is != (field != nil) {
			t.Errorf("keyed: %t, has request_id: %t", is, field != nil)
		}
		if field == nil {
			return
		}
		keyed++
		if !stringRule(rules(field), optionsv1.E_RequestKey) {
			t.Error("request_id does not carry the rule request_key")
		}
		if m.IsStreamingClient() {
			t.Error("a stream of requests cannot have one key")
		}
	})
	if keyed == 0 {
		t.Error("no method is keyed: the test looks at the wrong thing")
	}
}

func TestEveryFieldOfARequestIsBounded(t *testing.T) {
	eachMethod(t, func(t *testing.T, m protoreflect.MethodDescriptor) {
		eachField(m.Input(), func(f protoreflect.FieldDescriptor) {
			if unruled[f.FullName()] != "" {
				return
			}
			r := rules(f)
			if oneof := f.ContainingOneof(); r == nil && oneof != nil && proto.HasExtension(oneof.Options(), validate.E_Oneof) {
				return
			}
			if r == nil {
				t.Errorf("%s has no rule", f.FullName())
				return
			}
			if f.IsList() {
				if !r.GetRepeated().HasMaxItems() {
					t.Errorf("%s has no greatest number of items", f.FullName())
				}
				r = r.GetRepeated().GetItems()
			}
			switch f.Kind() {
			case protoreflect.StringKind:
				s := r.GetString()
				if !s.HasMaxLen() && !s.HasPattern() && !stringRule(r, optionsv1.E_Id) && !stringRule(r, optionsv1.E_RequestKey) {
					t.Errorf("%s may be of any length", f.FullName())
				}
			case protoreflect.BytesKind:
				if !r.GetBytes().HasMaxLen() {
					t.Errorf("%s may be of any length", f.FullName())
				}
			case protoreflect.EnumKind:
				if e := r.GetEnum(); !e.GetDefinedOnly() && len(e.GetIn()) == 0 {
					t.Errorf("%s takes numbers that have no name", f.FullName())
				}
			default: // numbers and messages have no length
			}
		})
	})
}

func TestIdentifiersInRequestsAreUUIDs(t *testing.T) {
	eachMethod(t, func(t *testing.T, m protoreflect.MethodDescriptor) {
		eachField(m.Input(), func(f protoreflect.FieldDescriptor) {
			r, name := rules(f), string(f.Name())
			switch {
			case strings.HasSuffix(name, "_ids"):
				r = r.GetRepeated().GetItems()
			case name == "request_id", name == "scan_id", !strings.HasSuffix(name, "_id"): // scan_id is the carrier's
				return
			}
			if !stringRule(r, optionsv1.E_Id) {
				t.Errorf("%s does not carry the rule id", f.FullName())
			}
		})
	})
}

func TestRESTHasEveryMethodItCanHave(t *testing.T) {
	eachMethod(t, func(t *testing.T, m protoreflect.MethodDescriptor) {
		internal := !access(m).GetPublic() && len(access(m).GetRoles()) == 0
		want := !m.IsStreamingClient() && !internal
		if has := httpRule(m) != nil; has != want {
			t.Errorf("has a path: %t, should have one: %t", has, want)
		}
	})
}

func TestTheOpenAPIDocumentHasEveryMethodWithAPath(t *testing.T) {
	var doc struct {
		Paths map[string]map[string]struct {
			OperationID string `json:"operationId"`
			Security    *[]any
		}
	}
	if err := json.Unmarshal(openapi.Document, &doc); err != nil {
		t.Fatal(err)
	}
	open := map[string]bool{}
	for _, verbs := range doc.Paths {
		for _, operation := range verbs {
			open[operation.OperationID] = operation.Security != nil && len(*operation.Security) == 0
		}
	}
	eachMethod(t, func(t *testing.T, m protoreflect.MethodDescriptor) {
		public, has := open[string(m.Parent().Name())+"_"+string(m.Name())]
		if want := httpRule(m) != nil; has != want {
			t.Errorf("in the document: %t, has a path: %t", has, want)
		}
		if has && public != access(m).GetPublic() {
			t.Errorf("open to anybody in the document: %t, in the contract: %t", public, access(m).GetPublic())
		}
	})
}

func TestEveryStreamOfResponsesCanBeResumed(t *testing.T) {
	eachMethod(t, func(t *testing.T, m protoreflect.MethodDescriptor) {
		if !m.IsStreamingServer() || m.IsStreamingClient() {
			return
		}
		for _, message := range []protoreflect.MessageDescriptor{m.Input(), m.Output()} {
			field := message.Fields().ByName("resume_token")
			if field == nil {
				t.Errorf("%s has no resume_token", message.FullName())
				continue
			}
			if marked, _ := proto.GetExtension(field.Options(), optionsv1.E_ResumeToken).(bool); !marked {
				t.Errorf("%s is not marked with (waybill.options.v1.resume_token)", field.FullName())
			}
		}
	})
}

func TestRawBodiesNameFieldsThatExist(t *testing.T) {
	eachMethod(t, func(t *testing.T, m protoreflect.MethodDescriptor) {
		raw, _ := proto.GetExtension(m.Options(), optionsv1.E_RawBody).(*optionsv1.RawBody)
		if raw == nil {
			return
		}
		body := m.Input().Fields().ByName(protoreflect.Name(raw.GetBodyField()))
		if body == nil || body.Kind() != protoreflect.BytesKind {
			t.Errorf("%q is not a field of bytes", raw.GetBodyField())
		}
		header := m.Input().Fields().ByName(protoreflect.Name(raw.GetHeaderField()))
		if header == nil || header.Kind() != protoreflect.StringKind || raw.GetHeader() == "" {
			t.Errorf("%q is not a string field for the header %q", raw.GetHeaderField(), raw.GetHeader())
		}
	})
}

func TestEveryEventIsKeyedByWhatItIsAbout(t *testing.T) {
	events := 0
	for _, file := range []protoreflect.FileDescriptor{
		authv1.File_waybill_auth_v1_auth_events_proto,
		userv1.File_waybill_user_v1_user_events_proto,
		inventoryv1.File_waybill_inventory_v1_inventory_events_proto,
		orderv1.File_waybill_order_v1_order_events_proto,
		paymentv1.File_waybill_payment_v1_payment_events_proto,
		shippingv1.File_waybill_shipping_v1_shipping_events_proto,
	} {
		for i := range file.Messages().Len() {
			event := file.Messages().Get(i)
			events++
			first := event.Fields().ByNumber(1)
			if first == nil || !slices.Contains(eventKeys, first.Name()) {
				t.Errorf("%s: its first field is not one of %v", event.FullName(), eventKeys)
			}
		}
	}
	if events < 30 {
		t.Errorf("only %d events: the test looks at the wrong thing", events)
	}
}

func TestSecretsAndPersonalDataAreMarked(t *testing.T) {
	private := []string{"password", "access_token", "refresh_token", "payment_token", "email", "display_name", "ship_to", "addresses", "signature", "recipient", "locality", "postal_code"}
	var check func(t *testing.T, message protoreflect.MessageDescriptor, seen map[protoreflect.FullName]bool)
	check = func(t *testing.T, message protoreflect.MessageDescriptor, seen map[protoreflect.FullName]bool) {
		if seen[message.FullName()] {
			return
		}
		seen[message.FullName()] = true
		for i := range message.Fields().Len() {
			field := message.Fields().Get(i)
			name := string(field.Name())
			marked, _ := proto.GetExtension(field.Options(), optionsv1.E_Sensitive).(bool)
			if !marked && slices.ContainsFunc(private, func(p string) bool { return name == p || strings.HasSuffix(name, "_"+p) }) {
				t.Errorf("%s is not marked with (waybill.options.v1.sensitive)", field.FullName())
			}
			if field.Message() != nil {
				check(t, field.Message(), seen)
			}
		}
	}
	eachMethod(t, func(t *testing.T, m protoreflect.MethodDescriptor) {
		seen := map[protoreflect.FullName]bool{}
		check(t, m.Input(), seen)
		check(t, m.Output(), seen)
	})
	for _, event := range []proto.Message{&authv1.UserRegistered{}, &userv1.UserUpdated{}, &orderv1.OrderPlaced{}} {
		check(t, event.ProtoReflect().Descriptor(), map[protoreflect.FullName]bool{})
	}
}
