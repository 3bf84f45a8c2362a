//go:build unix

package sqldbtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// A Server is a PostgreSQL of this process's own, reached through a Unix socket.
// It ends when Stop is called or when the process ends, however it ends: a shell
// that holds the other end of a pipe stops it and removes its files.
type Server struct {
	url  string
	cmd  *exec.Cmd
	pipe io.WriteCloser
}

// URL is where to connect, as a superuser.
func (s *Server) URL() string { return s.url }

// Stop ends the server and removes its files.
func (s *Server) Stop() error {
	return errors.Join(s.pipe.Close(), s.cmd.Wait())
}

// supervise runs the server until standard input ends.
const supervise = `dir=$1; shift
"$@" </dev/null >"$dir/log" 2>&1 &
cat >/dev/null
kill -QUIT $! 2>/dev/null; wait; cd /; rm -rf "$dir"`

// Start starts a server on a fresh copy of an empty database. durable is as in
// StartPostgres. It fails with ErrNoPostgres when none is installed.
func Start(durable bool) (*Server, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	who, err := runAs()
	if err != nil {
		return nil, err
	}
	base, err := baseDir(who)
	if err != nil {
		return nil, err
	}
	template, err := template(base, bin, who)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(base, "i"+strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		return nil, err
	}
	if err := who.own(dir); err != nil {
		return nil, err
	}
	if err := who.run("cp", "-a", template, filepath.Join(dir, "data")); err != nil {
		return nil, err
	}
	args := []string{"-c", supervise, "sh", dir, filepath.Join(bin, "postgres"), "-D", filepath.Join(dir, "data"), "-k", dir}
	for _, s := range settings(durable) {
		args = append(args, "-c", s)
	}
	cmd := who.command("/bin/sh", args...)
	cmd.SysProcAttr.Setpgid = true // the terminal's interrupt is for the tests
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &Server{cmd: cmd, pipe: pipe, url: "postgres://postgres@/postgres?host=" + url.QueryEscape(dir)}
	log := func() string { b, _ := os.ReadFile(filepath.Join(dir, "log")); return string(b) }
	if err := waitReady(s.url, log); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

func settings(durable bool) []string {
	s := []string{"listen_addresses=", "max_connections=200", "log_min_messages=warning", "max_wal_size=2GB"}
	if durable {
		return append(s, "shared_buffers=256MB")
	}
	return append(s, "shared_buffers=64MB", "fsync=off", "full_page_writes=off", "synchronous_commit=off")
}

// binaries finds the folder of the newest PostgreSQL installed.
func binaries() (string, error) {
	var found []string
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin"} {
		dirs, _ := filepath.Glob(pattern)
		found = append(found, dirs...)
	}
	slices.SortFunc(found, func(a, b string) int { return version(b) - version(a) })
	if path, err := exec.LookPath("initdb"); err == nil {
		found = append(found, filepath.Dir(path))
	}
	for _, dir := range found {
		if _, err := os.Stat(filepath.Join(dir, "initdb")); err == nil {
			return dir, nil
		}
	}
	return "", ErrNoPostgres
}

// version takes the number out of a folder's name.
func version(dir string) int {
	digits := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, filepath.Base(filepath.Dir(dir)))
	n, _ := strconv.Atoi(digits)
	return n
}

// identity is who the server runs as: PostgreSQL refuses root.
type identity struct {
	uid  int
	cred *syscall.Credential // nil for this process's own
}

func runAs() (*identity, error) {
	if uid := os.Getuid(); uid != 0 {
		return &identity{uid: uid}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err1 == nil && err2 == nil {
			return &identity{uid: uid, cred: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, nil
		}
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is no user postgres or nobody")
}

func (w *identity) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: w.cred}
	return cmd
}

func (w *identity) run(name string, args ...string) error {
	cmd := w.command(name, args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, bytes.TrimSpace(out))
	}
	return nil
}

// own gives a path to the server's user.
func (w *identity) own(path string) error {
	if w.cred == nil {
		return nil
	}
	return os.Chown(path, int(w.cred.Uid), int(w.cred.Gid))
}

// baseDir finds a folder for servers that their user can reach and that is short
// enough for a socket, and removes what crashed processes left there.
func baseDir(w *identity) (string, error) {
	const longest = 60
	for _, tmp := range []string{os.TempDir(), "/tmp", "/var/tmp", "/dev/shm"} {
		base := filepath.Join(tmp, "waybill-postgres-"+strconv.Itoa(os.Getuid()))
		if len(base) > longest || !reachable(tmp, w.uid) {
			continue
		}
		if err := os.Mkdir(base, 0o711); err == nil {
			err = w.own(base)
			if err != nil {
				return "", err
			}
		}
		info, err := os.Lstat(base)
		if err != nil || !info.IsDir() || info.Sys().(*syscall.Stat_t).Uid != uint32(w.uid) {
			continue // somebody else's
		}
		sweep(base)
		return base, nil
	}
	return "", errors.New("no folder for PostgreSQL that its user can reach; set TMPDIR")
}

// reachable tells whether a user may pass through dir and all above it.
func reachable(dir string, uid int) bool {
	for {
		info, err := os.Stat(dir)
		if err != nil {
			return false
		}
		own := info.Sys().(*syscall.Stat_t).Uid == uint32(uid)
		if m := info.Mode().Perm(); m&0o001 == 0 && (!own || m&0o100 == 0) {
			return false
		}
		up := filepath.Dir(dir)
		if up == dir {
			return true
		}
		dir = up
	}
}

// sweep removes the folders of processes that are gone.
func sweep(base string) {
	dirs, _ := filepath.Glob(filepath.Join(base, "i*-*"))
	for _, dir := range dirs {
		digits, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), "i"), "-")
		if pid, err := strconv.Atoi(digits); err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = os.RemoveAll(dir)
		}
	}
}

// template gives an empty database, made at its first use on this machine.
func template(base, bin string, w *identity) (string, error) {
	lock, err := os.OpenFile(filepath.Join(base, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close() // and with it the lock
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	info, err := os.Stat(filepath.Join(bin, "postgres"))
	if err != nil {
		return "", err
	}
	dir := filepath.Join(base, "template-"+strconv.FormatInt(info.ModTime().Unix(), 36)) // another binary, another template
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	half := dir + ".half"
	if err := os.RemoveAll(half); err != nil {
		return "", err
	}
	if err := w.run(filepath.Join(bin, "initdb"), "-D", half, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"); err != nil {
		return "", err
	}
	return dir, os.Rename(half, dir)
}
