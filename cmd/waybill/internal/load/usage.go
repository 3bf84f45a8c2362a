package load

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// usage measures what the run costs: CPU of this process and, on Linux, of the
// whole machine (which counts a database beside it), and resident memory.
type usage struct {
	mu           sync.Mutex
	cpu0, mach0  time.Duration
	cpu, machine time.Duration
	last         float64
	highest      float64
	at10s, atEnd float64
}

func startUsage() *usage {
	u := &usage{}
	u.restart()
	return u
}

func (u *usage) restart() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.cpu0, u.mach0 = processCPU(), machineCPU()
}

func (u *usage) stop() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.cpu, u.machine = processCPU()-u.cpu0, machineCPU()-u.mach0
	u.atEnd = residentMiB()
	u.highest = max(u.highest, u.atEnd)
}

func (u *usage) sample(elapsed time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.last = residentMiB()
	u.highest = max(u.highest, u.last)
	if u.at10s == 0 && elapsed >= 10*time.Second {
		u.at10s = u.last
	}
}

func (u *usage) rss() float64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.last
}

func processCPU() time.Duration {
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// machineCPU gives the busy time of all cores from /proc/stat, or 0.
func machineCPU() time.Duration {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(data), "\n")
	fields := strings.Fields(line)
	if len(fields) < 8 || fields[0] != "cpu" {
		return 0
	}
	var ticks int64
	for i, f := range fields[1:8] {
		if i == 3 || i == 4 {
			continue // idle, iowait
		}
		n, _ := strconv.ParseInt(f, 10, 64)
		ticks += n
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go runs on
	return time.Duration(ticks) * tick
}

// residentMiB gives the resident memory of this process, or 0.
func residentMiB() float64 {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(data))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseFloat(fields[1], 64)
	return pages * float64(os.Getpagesize()) / (1 << 20)
}
