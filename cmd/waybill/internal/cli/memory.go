package cli

import (
	"math"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
)

// gcPercent is how much a serving process lets its heap grow between collections,
// in percent of what is alive. Most of what it allocates is garbage within
// milliseconds, and a collection costs what is alive, not what is garbage.
const gcPercent = 300

// ownLimit is what a process takes where no container limits it, before it collects
// more often: with 1,000 orders in flight that costs some 5 % of them a second, and
// without it a process went on growing for a minute, to 1.5 GiB.
const ownLimit = 512 << 20

// tuneMemory trades memory for time in a process that serves, unless GOGC says
// otherwise: the heap may grow more between collections, but stays below what the
// container may use, or else ownLimit. GOMEMLIMIT overrules that limit.
func tuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	debug.SetMemoryLimit(heapLimit(os.ReadFile))
}

// heapLimit gives what the heap may take, by the files of the container.
func heapLimit(read func(name string) ([]byte, error)) int64 {
	for _, name := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		if data, err := read(name); err == nil {
			if limit, ok := memoryLimit(string(data)); ok {
				return limit
			}
			break
		}
	}
	return ownLimit
}

// memoryLimit gives what the Go heap may take of a container's limit, as the
// kernel writes it: the rest is for SQLite, stacks and the binary itself.
func memoryLimit(text string) (int64, bool) {
	limit, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil || limit <= 0 || limit >= math.MaxInt64/2 {
		return 0, false // "max", or the first version's way to say so
	}
	return limit / 10 * 7, true
}
