package bustest

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// A User may log in to a broker of ServeUsers and do there what is listed, and
// nothing else; with All it may do everything.
type User struct {
	Name, Password     string
	Publish, Subscribe []string // besides its inbox
	All                bool
}

// ServeUsers runs a broker in this process, on a port of the loopback, that lets
// in only the given users. Unlike StartServer it can be asked who is connected
// and what they subscribe to. change may alter its options; it may be nil.
func ServeUsers(tb testing.TB, users []User, change func(*server.Options)) *server.Server {
	tb.Helper()
	dir, err := os.MkdirTemp("", "bustest")
	if err != nil {
		tb.Fatal(err)
	}
	opts := &server.Options{
		ServerName: "bustest", Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true,
		JetStream: true, StoreDir: dir, JetStreamMaxStore: 16 << 30, JetStreamMaxMemory: 64 << 20, SyncInterval: 100 * time.Millisecond,
		Users: NATSUsers(users),
	}
	if change != nil {
		change(opts)
	}
	ns, err := server.NewServer(opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ns.Shutdown()
		ns.WaitForShutdown()
		_ = os.RemoveAll(dir)
	})
	go ns.Start()
	if !ns.ReadyForConnections(30 * time.Second) {
		tb.Fatal("broker does not get ready")
	}
	return ns
}

// NATSUsers gives the users as the broker's options want them. An empty list of what is
// allowed would allow everything, so one that allows nothing names a subject
// nobody uses.
func NATSUsers(users []User) []*server.User {
	var list []*server.User
	for _, u := range users {
		user := &server.User{Username: u.Name, Password: u.Password}
		if !u.All {
			publish := u.Publish
			if len(publish) == 0 {
				publish = []string{"nothing"}
			}
			user.Permissions = &server.Permissions{
				Publish:   &server.SubjectPermission{Allow: publish},
				Subscribe: &server.SubjectPermission{Allow: append(slices.Clone(u.Subscribe), "_INBOX."+u.Name+".>")},
			}
		}
		list = append(list, user)
	}
	return list
}
