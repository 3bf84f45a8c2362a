package system_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/outbox"
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
	opsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/ops/v1"
	optionsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/options/v1"
	userv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/user/v1"
)

const (
	listLetters   = opsv1.OperationsService_ListDeadLetters_FullMethodName
	getLetter     = opsv1.OperationsService_GetDeadLetter_FullMethodName
	redriveLetter = opsv1.OperationsService_RedriveDeadLetters_FullMethodName
	discardLetter = opsv1.OperationsService_DiscardDeadLetter_FullMethodName
	listActions   = opsv1.OperationsService_ListDeadLetterActions_FullMethodName
)

// A ward is a world into whose streams a test puts what no service says.
type ward struct {
	*world
	t   *testing.T
	bus *bus.Bus
}

// openWard starts a split in which the service that gives up runs elsewhere than
// the gateway.
func openWard(t *testing.T) *ward {
	t.Helper()
	sp := split{name: "user apart from the gateway", processes: [][]string{{"gateway", "auth"}, {"user", "inventory", "payment", "shipping", "order"}}, external: true}
	specs, _ := sp.plan(t, "desk")
	var list []*process
	for _, s := range specs {
		cfg := s.config()
		cfg.MaxAttempts = 2
		list = append(list, &process{cfg: cfg})
	}
	w, err := begin(list)
	must(t, err)
	t.Cleanup(func() { must(t, w.finish()) })
	w.admin, err = w.logIn(adminEmail, secret("admin-password"))
	must(t, err)
	b, err := bus.Open(t.Context(), bus.Config{URL: specs[0].NATS}, slog.New(slog.DiscardHandler))
	must(t, err)
	t.Cleanup(func() { must(t, b.Close(context.Background())) })
	return &ward{world: w, t: t, bus: b}
}

// inject puts an event of the auth service about a user into its stream.
func (w *ward) inject(userID string, version int, typ string, data []byte) (eventID string) {
	w.t.Helper()
	id := uuid.NewString()
	_, err := w.bus.Publish(soon(w.t), outbox.Stream("auth"), bus.Msg{
		ID: id, Subject: outbox.Subject(typ, userID), Data: data,
		Header: map[string]string{
			outbox.HeaderID: id, outbox.HeaderType: typ, outbox.HeaderSubject: userID, outbox.HeaderVersion: fmt.Sprint(version), outbox.HeaderHops: "0",
			outbox.HeaderCause: "cause-" + id, outbox.HeaderTrace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
		},
	})
	must(w.t, err)
	return id
}

func (w *ward) injectEvent(userID string, version int, e proto.Message) (eventID string) {
	w.t.Helper()
	data, err := proto.Marshal(e)
	must(w.t, err)
	return w.inject(userID, version, string(e.ProtoReflect().Descriptor().FullName()), data)
}

func registered(userID string, role optionsv1.Role) *authv1.UserRegistered {
	return &authv1.UserRegistered{
		UserId: userID, Email: "w-" + userID + "@example.com", DisplayName: "Wanda", Role: role, RegisteredAt: timestamppb.New(time.Unix(1_700_000_000, 0)),
	}
}

// letters gives the dead letters of the user service that a filter lets through.
func (w *ward) letters(t *testing.T, d door, filter string) []*opsv1.DeadLetter {
	t.Helper()
	var resp opsv1.ListDeadLettersResponse
	a, err := d.call(soon(t), w.world, w.admin.token, listLetters, &opsv1.ListDeadLettersRequest{Service: "user", Filter: filter, OrderBy: "first_time"}, &resp)
	must(t, err)
	if a.code != codes.OK {
		t.Fatal(a.text)
	}
	return resp.GetDeadLetters()
}

// until waits for a dead letter of an event to be as wanted; nil stands for none.
func (w *ward) until(t *testing.T, d door, eventID string, wanted func(*opsv1.DeadLetter) bool) (found *opsv1.DeadLetter) {
	t.Helper()
	must(t, poll(soon(t), func() (bool, error) {
		found = nil
		if all := w.letters(t, d, fmt.Sprintf("event_id = %q", eventID)); len(all) > 0 {
			found = all[0]
		}
		return wanted(found), nil
	}))
	return found
}

func gone(d *opsv1.DeadLetter) bool { return d == nil }

func tried(n int64) func(*opsv1.DeadLetter) bool {
	return func(d *opsv1.DeadLetter) bool { return d.GetAttempts() == n && d.GetRedriveTime() == nil }
}

func (w *ward) redrive(t *testing.T, d door, key string, ids ...string) *opsv1.RedriveDeadLettersResponse {
	t.Helper()
	var resp opsv1.RedriveDeadLettersResponse
	a, err := d.call(soon(t), w.world, w.admin.token, redriveLetter, &opsv1.RedriveDeadLettersRequest{RequestId: key, Service: "user", DeadLetterIds: ids, Reason: "mended"}, &resp)
	must(t, err)
	if a.code != codes.OK {
		t.Fatal(a.text)
	}
	return &resp
}

// TestWhatAServiceGaveUpIsSeenMendedAndDoneOnce goes the whole way: an event that
// cannot be handled yet, one that never can, and one that is none, put into a stream
// behind the back of the services.
func TestWhatAServiceGaveUpIsSeenMendedAndDoneOnce(t *testing.T) {
	t.Parallel()
	w := openWard(t)
	throughBoth(t, func(t *testing.T, d door) {
		x, y := uuid.Must(uuid.NewV7()).String(), uuid.Must(uuid.NewV7()).String()
		early := w.injectEvent(x, 2, &authv1.UserRoleChanged{UserId: x, Role: optionsv1.Role_ROLE_STAFF})
		garbage := w.inject(x, 3, "waybill.auth.v1.UserRegistered", []byte{0xff, 0xff})
		refused := w.injectEvent(x, 4, registered(x, optionsv1.Role_ROLE_UNSPECIFIED))
		w.injectEvent(y, 1, registered(y, optionsv1.Role_ROLE_CUSTOMER))
		must(t, poll(soon(t), func() (bool, error) { // none of them is in its way
			u, _ := w.user(t, y)
			return u.GetUserId() == y, nil
		}))

		letter := w.until(t, d, early, tried(2))
		for event, want := range map[string]string{
			early:   "EXHAUSTED NOT_REGISTERED_YET waybill.auth.v1.UserRoleChanged",
			garbage: "MALFORMED MALFORMED_EVENT waybill.auth.v1.UserRegistered",
			refused: "REFUSED NO_ROLE waybill.auth.v1.UserRegistered",
		} {
			l := w.until(t, d, event, func(l *opsv1.DeadLetter) bool { return l != nil })
			if got := strings.TrimPrefix(l.GetClass().String(), "DEAD_LETTER_CLASS_") + " " + l.GetReason() + " " + l.GetType(); got != want {
				t.Errorf("%s, want %s", got, want)
			}
			if l.GetService() != "user" || l.GetAggregateId() != x || l.GetStream() != "WAYBILL_AUTH" || l.GetStreamSequence() == 0 ||
				l.GetSubject() == "" || l.GetTraceId() != "0af7651916cd43dd8448eb211c80319c" || l.GetCauseId() != "cause-"+event {
				t.Errorf("%v", l)
			}
		}
		if n := len(w.letters(t, d, fmt.Sprintf("aggregate_id = %q AND class = \"REFUSED\"", x))); n != 1 {
			t.Errorf("the filter lets %d through, want 1", n)
		}
		w.looked(t, d, refused)

		// Too early: it fails again and stays.
		if resp := w.redrive(t, d, newKey(), letter.GetDeadLetterId()); resp.GetScheduled() != 1 {
			t.Errorf("%v", &resp)
		}
		w.until(t, d, early, tried(3))

		// What was missing comes, and it is done, once, however often it is asked.
		w.injectEvent(x, 1, registered(x, optionsv1.Role_ROLE_CUSTOMER))
		must(t, poll(soon(t), func() (bool, error) {
			u, _ := w.user(t, x)
			return u.GetRole() == optionsv1.Role_ROLE_CUSTOMER, nil
		}))
		key := newKey()
		first := w.redrive(t, d, key, letter.GetDeadLetterId())
		w.until(t, d, early, gone)
		after, _ := w.user(t, x)
		if after.GetRole() != optionsv1.Role_ROLE_STAFF {
			t.Errorf("the role is %s", after.GetRole())
		}
		if again := w.redrive(t, d, key, letter.GetDeadLetterId()); !proto.Equal(first, again) || first.GetScheduled() != 1 {
			t.Errorf("the same call again: %v, first %v", again, first)
		}
		if other := w.redrive(t, d, newKey(), letter.GetDeadLetterId()); other.GetScheduled() != 0 {
			t.Errorf("another call: %v", other)
		}
		w.discarded(t, d, garbage)
		if last, _ := w.user(t, x); last.GetVersion() != after.GetVersion() {
			t.Errorf("the version was %d and is %d", after.GetVersion(), last.GetVersion())
		}
		w.recorded(t, d, early, "REDRIVE_REQUESTED REDRIVE_FAILED REDRIVE_REQUESTED REDRIVEN", "mended")
		w.recorded(t, d, garbage, "DISCARDED", "no event at all")
	})
	metrics, err := w.get(w.processes[1].node.AdminURL() + "/metrics")
	must(t, err)
	for _, name := range []string{"waybill_dead_letters", "waybill_dead_letters_age_seconds"} {
		if !strings.Contains(string(metrics), name+"{") {
			t.Errorf("there is no metric %s", name)
		}
	}
}

func (w *ward) user(t *testing.T, id string) (*userv1.User, error) {
	t.Helper()
	return userv1.NewUserServiceClient(w.conn).GetUser(w.admin.as(soon(t)), &userv1.GetUserRequest{UserId: id})
}

// looked holds that a dead letter shows what it says, without what is sensitive.
func (w *ward) looked(t *testing.T, d door, event string) {
	t.Helper()
	l := w.until(t, d, event, func(l *opsv1.DeadLetter) bool { return l != nil })
	var full opsv1.DeadLetter
	a, err := d.call(soon(t), w.world, w.admin.token, getLetter, &opsv1.GetDeadLetterRequest{Service: "user", DeadLetterId: l.GetDeadLetterId()}, &full)
	must(t, err)
	said := full.GetPayload().GetFields()
	if a.code != codes.OK || said["user_id"].GetStringValue() != l.GetAggregateId() || full.GetHeaders()[outbox.HeaderID] != event {
		t.Errorf("%s %v", a.text, &full)
	}
	if said["email"] != nil || said["display_name"] != nil {
		t.Errorf("it shows what is sensitive: %v", full.GetPayload())
	}
}

// discarded throws a dead letter away.
func (w *ward) discarded(t *testing.T, d door, event string) {
	t.Helper()
	l := w.until(t, d, event, func(l *opsv1.DeadLetter) bool { return l != nil })
	req := &opsv1.DiscardDeadLetterRequest{RequestId: newKey(), Service: "user", DeadLetterId: l.GetDeadLetterId(), Reason: "no event at all"}
	for range 2 {
		var did opsv1.DeadLetterAction
		a, err := d.call(soon(t), w.world, w.admin.token, discardLetter, req, &did)
		must(t, err)
		if a.code != codes.OK || did.GetUserId() != w.admin.id || did.GetEventId() != event {
			t.Errorf("%s %v", a.text, &did)
		}
	}
	w.until(t, d, event, gone)
	a, err := d.call(soon(t), w.world, w.admin.token, getLetter, &opsv1.GetDeadLetterRequest{Service: "user", DeadLetterId: l.GetDeadLetterId()}, &opsv1.DeadLetter{})
	must(t, err)
	missing.check(t, a)
}

// recorded holds that the record has these deeds about an event, by the admin.
func (w *ward) recorded(t *testing.T, d door, event, deeds, reason string) {
	t.Helper()
	var resp opsv1.ListDeadLetterActionsResponse
	a, err := d.call(soon(t), w.world, w.admin.token, listActions,
		&opsv1.ListDeadLetterActionsRequest{Service: "user", Filter: fmt.Sprintf("event_id = %q", event), OrderBy: "create_time"}, &resp)
	must(t, err)
	var got []string
	for _, x := range resp.GetActions() {
		got = append(got, strings.TrimPrefix(x.GetDeed().String(), "DEAD_LETTER_DEED_"))
		if x.GetUserId() != w.admin.id || x.GetReason() != reason || x.GetCreateTime() == nil {
			t.Errorf("%v", x)
		}
	}
	if strings.Join(got, " ") != deeds {
		t.Errorf("%s the record says %v, want %s", a.text, got, deeds)
	}
}

// TestWhoMayTouchWhatWasGivenUp also holds for services that run elsewhere.
func TestWhoMayTouchWhatWasGivenUp(t *testing.T) {
	t.Parallel()
	w := openWard(t)
	staff, customer := w.staff(t), w.customer(t)
	throughBoth(t, func(t *testing.T, d door) {
		for _, service := range []string{"auth", "user", "inventory", "payment", "shipping", "order"} {
			list := &opsv1.ListDeadLettersRequest{Service: service}
			for token, want := range map[string]codes.Code{staff.token: codes.OK, w.admin.token: codes.OK, customer.token: codes.PermissionDenied, "": codes.Unauthenticated} {
				a, err := d.call(soon(t), w.world, token, listLetters, list, &opsv1.ListDeadLettersResponse{})
				must(t, err)
				if a.code != want {
					t.Errorf("%s: %s, want %s", service, a.code, want)
				}
			}
			all := &opsv1.RedriveDeadLettersRequest{RequestId: newKey(), Service: service, Filter: "attempts > 0"}
			for token, want := range map[string]codes.Code{staff.token: codes.PermissionDenied, w.admin.token: codes.OK} {
				a, err := d.call(soon(t), w.world, token, redriveLetter, all, &opsv1.RedriveDeadLettersResponse{})
				must(t, err)
				if a.code != want {
					t.Errorf("%s: %s, want %s", service, a.code, want)
				}
			}
		}
		for _, service := range []string{"gateway", "nobody"} {
			a, err := d.call(soon(t), w.world, w.admin.token, listLetters, &opsv1.ListDeadLettersRequest{Service: service}, &opsv1.ListDeadLettersResponse{})
			must(t, err)
			if a.code != codes.NotFound || a.reason != "SERVICE_UNKNOWN" {
				t.Errorf("%s: %s", service, a.text)
			}
		}
		a, err := d.call(soon(t), w.world, w.admin.token, redriveLetter, &opsv1.RedriveDeadLettersRequest{RequestId: newKey(), Service: "user"}, &opsv1.RedriveDeadLettersResponse{})
		must(t, err)
		if a.code != codes.InvalidArgument || a.reason != "WHICH_DEAD_LETTERS" {
			t.Errorf("redriving nothing in particular: %s", a.text)
		}
	})
}
