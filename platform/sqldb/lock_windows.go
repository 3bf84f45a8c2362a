//go:build windows

package sqldb

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// fileLock keeps other processes away from a database. The system drops it when
// the process ends, however it ends.
type fileLock struct{ f *os.File }

// lockedError says that somebody else has the lock.
type lockedError struct{ pid string }

func (e *lockedError) Error() string { return "locked by another process" }

// lockFile takes the lock or fails with *lockedError.
func lockFile(path string) (*fileLock, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	if err := windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, new(windows.Overlapped)); err != nil {
		defer f.Close()
		if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
			return nil, &lockedError{}
		}
		return nil, err
	}
	return &fileLock{f: f}, nil
}

func (l *fileLock) release() error { return l.f.Close() }
