package system_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
	userv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/user/v1"
)

const (
	signUp = authv1.AuthService_SignUp_FullMethodName
	logIn  = authv1.AuthService_LogIn_FullMethodName
	renew  = authv1.AuthService_RefreshToken_FullMethodName
)

func TestAnAccessTokenRenewsNothing(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	u := w.customer(t)
	throughBoth(t, func(t *testing.T, d door) {
		for name, token := range map[string]string{
			"A5 an access token": u.token, "A5 nothing known": "abc", "A5 a token of the right form": strings.Repeat("a", len(u.refresh)),
		} {
			t.Run(name, func(t *testing.T) {
				unauthenticated.check(t, try(t, d, w, nil, renew, &authv1.RefreshTokenRequest{RefreshToken: token}, nil))
			})
		}
	})
	if a := knock(t, grpcDoor{}, w, u.token); a.code != codes.OK {
		t.Errorf("the session did not survive: %+v", a)
	}
}

func TestALostAnswerToARenewalIsGivenAgain(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	throughBoth(t, func(t *testing.T, d door) {
		u := w.customer(t)
		req := &authv1.RefreshTokenRequest{RefreshToken: u.refresh}
		first := ask(t, d, w, nil, renew, req, &authv1.RefreshTokenResponse{}).GetTokens()
		again := ask(t, d, w, nil, renew, req, &authv1.RefreshTokenResponse{}).GetTokens()
		remember(first.GetRefreshToken())
		if first.GetRefreshToken() != again.GetRefreshToken() || first.GetRefreshToken() == u.refresh {
			t.Error("within the time of grace a spent token gives its successor, and no other")
		}
		ask(t, d, w, nil, renew, &authv1.RefreshTokenRequest{RefreshToken: again.GetRefreshToken()}, &authv1.RefreshTokenResponse{})
	})
}

func TestAStolenRefreshTokenEndsItsSession(t *testing.T) {
	t.Parallel()
	w := narrow.get(t)
	throughBoth(t, func(t *testing.T, d door) {
		d = fromElsewhere(t, w, d)
		u := w.customerAt(t, d)
		next := ask(t, d, w, nil, renew, &authv1.RefreshTokenRequest{RefreshToken: u.refresh}, &authv1.RefreshTokenResponse{}).GetTokens()
		unauthenticated.check(t, try(t, d, w, nil, renew, &authv1.RefreshTokenRequest{RefreshToken: u.refresh}, nil))
		unauthenticated.check(t, try(t, d, w, nil, renew, &authv1.RefreshTokenRequest{RefreshToken: next.GetRefreshToken()}, nil))
	})
}

func TestLoggingInTellsNothingOfWhoHasAnAccount(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	u := w.customer(t)
	throughBoth(t, func(t *testing.T, d door) {
		wrong := try(t, d, w, nil, logIn, &authv1.LogInRequest{Email: u.email, Password: secret("not-it")}, nil)
		unknown := try(t, d, w, nil, logIn, &authv1.LogInRequest{Email: uuid.NewString() + "@example.com", Password: secret("not-it")}, nil)
		unauthenticated.check(t, wrong)
		unauthenticated.check(t, unknown)
		if withoutTrace(wrong.text) != withoutTrace(unknown.text) {
			t.Errorf("the answers differ:\n%s\n%s", wrong.text, unknown.text)
		}
	})
}

var ids = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{32}|[0-9a-f]{16}|%[0-9a-f]+`)

// withoutTrace takes out of an answer what names the request.
func withoutTrace(s string) string {
	return strings.Join(strings.Fields(ids.ReplaceAllString(s, "#")), " ")
}

// elsewhere is a door used from another address of the loopback.
type elsewhere struct {
	door
	conn *grpc.ClientConn
	web  *http.Client
}

// Call goes to the same process through connections of its own.
func (e elsewhere) call(ctx context.Context, w *world, token, method string, req, resp proto.Message) (answer, error) {
	own := &world{base: w.base, addr: w.addr, conn: e.conn, web: e.web}
	return e.door.call(ctx, own, token, method, req, resp)
}

var lastAddress struct {
	sync.Mutex
	n byte
}

// fromElsewhere gives a door whose calls come from an address that no other test has.
func fromElsewhere(t *testing.T, w *world, d door) door {
	t.Helper()
	lastAddress.Lock()
	lastAddress.n++
	from := &net.TCPAddr{IP: net.IPv4(127, 0, 7, lastAddress.n)}
	lastAddress.Unlock()
	dialer := &net.Dialer{LocalAddr: from}
	if l, err := net.ListenTCP("tcp", from); err != nil {
		t.Skipf("this machine has only one address: %v", err)
	} else {
		_ = l.Close()
	}
	conn, err := grpc.NewClient(w.addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return dialer.DialContext(ctx, "tcp", addr) }))
	must(t, err)
	web := &http.Client{Timeout: patience, Transport: &http.Transport{DialContext: dialer.DialContext}}
	t.Cleanup(func() {
		_ = conn.Close()
		web.CloseIdleConnections()
	})
	return elsewhere{door: d, conn: conn, web: web}
}

// customerAt opens an account through a door.
func (w *world) customerAt(t *testing.T, d door) *user {
	t.Helper()
	u := &user{email: uuid.NewString() + "@example.com", password: secret("password-of-a-customer")}
	up := ask(t, d, w, nil, signUp, &authv1.SignUpRequest{Email: u.email, Password: u.password, DisplayName: "Kim"}, &authv1.SignUpResponse{})
	u.id = up.GetUserId()
	return u.take(up.GetTokens())
}

func TestGuessingIsSlowedDownAndLocksNobodyOut(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	throughBoth(t, func(t *testing.T, d door) {
		u := w.customer(t)
		guesser, owner := fromElsewhere(t, w, d), fromElsewhere(t, w, d)
		guess := func() answer {
			return try(t, guesser, w, nil, logIn, &authv1.LogInRequest{Email: u.email, Password: secret("a-guess")}, nil)
		}
		slowed := false
		for range 20 {
			a := guess()
			if a.code == codes.ResourceExhausted {
				slowed = true
				refusal{code: codes.ResourceExhausted, reason: "TOO_MANY_ATTEMPTS"}.check(t, a)
				if a.retry <= 0 {
					t.Error("nobody is told when to come back")
				}
				break
			}
			unauthenticated.check(t, a)
		}
		if !slowed {
			t.Error("20 wrong passwords and the next may be tried at once")
		}
		refusal{code: codes.ResourceExhausted}.check(t, try(t, guesser, w, nil, logIn, &authv1.LogInRequest{Email: u.email, Password: u.password}, nil))
		in := ask(t, owner, w, nil, logIn, &authv1.LogInRequest{Email: u.email, Password: u.password}, &authv1.LogInResponse{})
		if in.GetUserId() != u.id {
			t.Errorf("somebody else was let in: %s", in.GetUserId())
		}
	})
}

func TestOneAddressCannotTryEverybody(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	throughBoth(t, func(t *testing.T, d door) {
		d = fromElsewhere(t, w, d)
		for n := range 300 { // a busy machine tries so slowly that some are forgiven meanwhile
			a := try(t, d, w, nil, logIn, &authv1.LogInRequest{Email: fmt.Sprintf("victim-%d@example.com", n), Password: secret("a-guess")}, nil)
			if a.code == codes.ResourceExhausted {
				if n < 50 {
					t.Errorf("slowed down after %d", n)
				}
				return
			}
		}
		t.Error("300 accounts were tried from one address and the next may be")
	})
}

func TestAHundredAtOnceAreLetInOrAskedToWait(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	u := w.customer(t)
	throughBoth(t, func(t *testing.T, d door) {
		answers := make([]answer, 100)
		var all sync.WaitGroup
		for i := range answers {
			all.Go(func() {
				a, err := d.call(soon(t), w, "", logIn, &authv1.LogInRequest{Email: u.email, Password: u.password}, &authv1.LogInResponse{})
				if err != nil {
					t.Error(err)
				}
				answers[i] = a
			})
		}
		all.Wait()
		count := map[codes.Code]int{}
		for _, a := range answers {
			count[a.code]++
		}
		told := count[codes.ResourceExhausted] + count[codes.Unavailable] + count[codes.DeadlineExceeded] // the last on a busy machine
		if count[codes.OK] == 0 || count[codes.OK]+told != len(answers) {
			t.Errorf("the answers were %v", count)
		}
	})
}

func TestPasswordsAreWhatTheyShouldBe(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	throughBoth(t, func(t *testing.T, d door) {
		for name, password := range map[string]string{
			"A14 one character":  "x",
			"A14 nine":           "123456789",
			"A14 129":            strings.Repeat("p", 129),
			"A14 NUL":            "long enough\x00but no",
			"A14 none":           "",
			"A14 ten blanks":     "          ",
			"A14 one, ten times": "aaaaaaaaaa",
		} {
			t.Run(name, func(t *testing.T) {
				a := try(t, d, w, nil, signUp, &authv1.SignUpRequest{Email: uuid.NewString() + "@example.com", Password: password, DisplayName: "Kim"}, nil)
				if a.code == codes.OK && strings.TrimLeft(password, password[:1]) == "" { // weak, and that is the person's own business
					return
				}
				invalid("password").check(t, a)
			})
		}
		long := secret(strings.Repeat("x", 72-len(secret(""))))
		u := &user{email: uuid.NewString() + "@example.com", password: long + "a"}
		ask(t, d, w, nil, signUp, &authv1.SignUpRequest{Email: u.email, Password: u.password, DisplayName: "Kim"}, &authv1.SignUpResponse{})
		unauthenticated.check(t, try(t, d, w, nil, logIn, &authv1.LogInRequest{Email: u.email, Password: long + "b"}, nil))
		unauthenticated.check(t, try(t, d, w, nil, logIn, &authv1.LogInRequest{Email: u.email, Password: long}, nil))
		ask(t, d, w, nil, logIn, &authv1.LogInRequest{Email: u.email, Password: u.password}, &authv1.LogInResponse{})

		composed, decomposed := secret("caf\u00e9"), secret("cafe\u0301")
		email := uuid.NewString() + "@example.com"
		ask(t, d, w, nil, signUp, &authv1.SignUpRequest{Email: email, Password: composed, DisplayName: "Kim"}, &authv1.SignUpResponse{})
		ask(t, d, w, nil, logIn, &authv1.LogInRequest{Email: email, Password: decomposed}, &authv1.LogInResponse{})
	})
	raw := `{"email":"` + uuid.NewString() + `@example.com","display_name":"Kim","password":"lone surrogate \ud800"}`
	invalid("").check(t, w.post(t, nil, "/v1/auth/signup", raw))
}

func TestOneAddressIsOneAccount(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	u := w.customer(t)
	throughBoth(t, func(t *testing.T, d door) {
		for _, email := range []string{u.email, strings.ToUpper(u.email)} {
			a := try(t, d, w, nil, signUp, &authv1.SignUpRequest{Email: email, Password: secret("password-of-another"), DisplayName: "Kim"}, nil)
			refusal{code: codes.AlreadyExists, reason: "EMAIL_TAKEN", field: "email"}.check(t, a)
		}
		for _, email := range []string{"", "nobody", "a@", "a b@example.com", "a@example.com\nBcc: b@example.com", strings.Repeat("a", 250) + "@example.com"} {
			invalid("email").check(t, try(t, d, w, nil, signUp, &authv1.SignUpRequest{Email: email, Password: secret("password-of-another"), DisplayName: "Kim"}, nil))
		}
	})
}

// TestSomebodyWhoIsErasedIsOut waits for verifiers to hear of it,
// which they do every quarter of a minute when they are asked.
func TestSomebodyWhoIsErasedIsOut(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	u := w.customer(t)
	w.see(t, u)
	ask(t, restDoor{}, w, u, userv1.UserService_DeleteUser_FullMethodName, &userv1.DeleteUserRequest{UserId: u.id}, &userv1.DeleteUserResponse{})
	must(t, poll(soon(t), func() (bool, error) {
		return try(t, grpcDoor{}, w, nil, renew, &authv1.RefreshTokenRequest{RefreshToken: u.refresh}, nil).code == codes.Unauthenticated, nil
	}))
	unauthenticated.check(t, try(t, grpcDoor{}, w, nil, logIn, &authv1.LogInRequest{Email: u.email, Password: u.password}, nil))
	if err := poll(soon(t), func() (bool, error) { return knock(t, grpcDoor{}, w, u.token).code == codes.Unauthenticated, nil }); err != nil {
		t.Errorf("the access token is still good after %s: %v", patience, err)
	}
	unauthenticated.check(t, knock(t, restDoor{}, w, u.token))
}

// TestStoredPasswordsAreHashes reads the database as a thief would.
func TestStoredPasswordsAreHashes(t *testing.T) {
	t.Parallel()
	w := shop.get(t) // whose hashes cost little, like those of all worlds here
	w.customer(t)
	var all []byte
	for _, suffix := range []string{"", "-wal"} {
		if data, err := os.ReadFile(filepath.Join(w.dir, "auth.db"+suffix)); err == nil {
			all = append(all, data...)
		}
	}
	phc := regexp.MustCompile(`\$argon2id\$v=19\$m=64,t=1,p=1\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}`)
	if hashes := phc.FindAll(all, -1); len(hashes) < 2 {
		t.Errorf("found %d hashes of 16 bytes of salt and 32 of hash, want those of the admin and of a customer", len(hashes))
	}
	if bytes.Contains(all, []byte(marker)) {
		t.Error("a password is in the database")
	}
}

func TestThePublicKeysAreForEverybody(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	throughBoth(t, func(t *testing.T, d door) {
		keys := ask(t, d, w, nil, authv1.AuthService_JWKS_FullMethodName, &authv1.JWKSRequest{}, &authv1.JWKSResponse{}).GetKeys()
		if len(keys) == 0 || keys[0].GetKid() == "" || keys[0].GetX() == "" || keys[0].GetKty() != "OKP" {
			t.Errorf("%v", keys)
		}
	})
}
