package process_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/bus/bustest"
	"github.com/waybill-dev/waybill/platform/outbox"
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
	opsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/ops/v1"
	optionsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/options/v1"
)

// TestTheCommandsForWhatWasGivenUp puts an event into a stream that cannot be
// handled yet, and one that is none, and does with the commands what an operator
// does about them.
func TestTheCommandsForWhatWasGivenUp(t *testing.T) {
	t.Parallel()
	broker := bustest.StartServer(t)
	env := settings(t)
	s := serve(t, env, "--data", t.TempDir(), "--nats", broker.URL(), "--max-attempts=2")
	b, err := bus.Open(t.Context(), bus.Config{URL: broker.URL()}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close(context.Background()) })
	env = append(env, "WAYBILL_PASSWORD="+adminPassword)
	user := uuid.NewString()
	inject := func(version int, typ string, e proto.Message, data []byte) {
		t.Helper()
		if e != nil {
			typ = string(e.ProtoReflect().Descriptor().FullName())
			if data, err = proto.Marshal(e); err != nil {
				t.Fatal(err)
			}
		}
		id := uuid.NewString()
		if _, err := b.Publish(t.Context(), outbox.Stream("auth"), bus.Msg{
			ID: id, Subject: outbox.Subject(typ, user), Data: data,
			Header: map[string]string{outbox.HeaderID: id, outbox.HeaderType: typ, outbox.HeaderSubject: user, outbox.HeaderVersion: fmt.Sprint(version)},
		}); err != nil {
			t.Fatal(err)
		}
	}
	waybill := func(code int, args ...string) result {
		t.Helper()
		r := run(t, env, "", append(args, "--server", s.grpc)...)
		if !slices.Contains(args, "--json") {
			t.Logf("$ waybill %s\n%s%s", strings.Join(args, " "), r.out, r.errOut)
		}
		if r.code != code {
			t.Errorf("waybill %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), r.code, code, r.out, r.errOut)
		}
		return r
	}
	letters := func(args ...string) []*opsv1.DeadLetter {
		t.Helper()
		var all opsv1.ListDeadLettersResponse
		if err := protojson.Unmarshal([]byte(waybill(0, append([]string{"dlq", "list", "--json"}, args...)...).out), &all); err != nil {
			t.Fatal(err)
		}
		return all.GetDeadLetters()
	}
	says := func(r result, words ...string) {
		t.Helper()
		for _, w := range words {
			if !strings.Contains(r.out+r.errOut, w) {
				t.Errorf("the output has no %q:\n%s%s", w, r.out, r.errOut)
			}
		}
	}
	waybill(0, "login", "--email", adminEmail)
	says(waybill(0, "dlq", "list"), "nothing was given up")

	inject(2, "", &authv1.UserRoleChanged{UserId: user, Role: optionsv1.Role_ROLE_STAFF}, nil)
	inject(3, "waybill.auth.v1.UserRegistered", nil, []byte{0xff})
	await(t, "both are given up", patience, func() bool { return len(letters()) == 2 })
	early, garbage := letters("user", "--filter", `class = "EXHAUSTED"`)[0].GetDeadLetterId(), letters("user", "--filter", `class = "MALFORMED"`)[0].GetDeadLetterId()
	says(waybill(0, "dlq", "list"), "user", early, "EXHAUSTED", "NOT_REGISTERED_YET", "UserRoleChanged", garbage, "MALFORMED")
	says(waybill(0, "dlq", "get", "user", early), "WAYBILL_AUTH", user, "has not arrived yet", "ROLE_STAFF")
	says(waybill(0, "dlq", "get", "user", garbage), "payload of 1 bytes, not shown")
	says(waybill(1, "dlq", "get", "user", uuid.NewString()), "DEAD_LETTER_NOT_FOUND")
	says(waybill(2, "dlq", "discard", "user", garbage), "--reason")
	says(waybill(1, "dlq", "redrive", "user"), "WHICH_DEAD_LETTERS")
	says(waybill(1, "dlq", "redrive", "user", early, "--reason", "too early"), "0 done, 1 failed again", early+"  NOT_REGISTERED_YET")

	inject(1, "", &authv1.UserRegistered{
		UserId: user, Email: "w@example.com", DisplayName: "Wanda", Role: optionsv1.Role_ROLE_CUSTOMER, RegisteredAt: timestamppb.New(time.Unix(1_700_000_000, 0)),
	}, nil)
	await(t, "it is done", patience, func() bool {
		r := run(t, env, "", "dlq", "redrive", "user", early, "--reason", "mended", "--json", "--server", s.grpc)
		var o struct{ Scheduled, Redriven, Failed, Waiting int }
		if err := json.Unmarshal([]byte(r.out), &o); err != nil {
			t.Fatal(err, r.errOut)
		}
		return r.code == 0 && o.Redriven == 1 && o.Waiting == 0
	})
	says(waybill(0, "dlq", "redrive", "user", early), "0 to be tried again")
	says(waybill(0, "dlq", "discard", "user", garbage, "--reason", "no event at all"), "thrown away: waybill.auth.v1.UserRegistered")
	says(waybill(0, "dlq", "list"), "nothing was given up")
	says(waybill(0, "dlq", "actions", "user"), "DISCARDED", "REDRIVEN", "REDRIVE_FAILED", "too early", "mended", "no event at all")
}
