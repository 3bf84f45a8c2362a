//go:build unix

package sqldb

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// fileLock keeps other processes away from a database. The kernel drops it when
// the process ends, however it ends.
type fileLock struct{ f *os.File }

// lockedError says that somebody else has the lock.
type lockedError struct{ pid string }

func (e *lockedError) Error() string { return "locked by process " + e.pid }

// lockFile takes the lock or fails with *lockedError. The file stays when the lock
// goes, since removing it could leave two processes with a lock each.
func lockFile(path string) (*fileLock, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, err
		}
		pid := make([]byte, 32)
		n, _ := f.ReadAt(pid, 0)
		return nil, &lockedError{pid: strings.TrimSpace(string(pid[:n]))}
	}
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0) // for the message only
	}
	return &fileLock{f: f}, nil
}

func (l *fileLock) release() error { return l.f.Close() }
