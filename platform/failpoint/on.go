//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// Enabled tells whether this build can die at points.
const Enabled = true

// Before is called just before the step that a point names.
func Before(point string) { pass(point, "before") }

// After is called just after it.
func After(point string) { pass(point, "after") }

type plan struct {
	point, side string
	hit         int64
	arm         string
	armed       atomic.Bool
	passed      atomic.Int64
}

var planned = sync.OnceValue(func() *plan {
	p := &plan{arm: os.Getenv("FAILPOINT_ARM")}
	text := os.Getenv("FAILPOINT")
	if text == "" {
		return p
	}
	parts := strings.Split(text, ":")
	var err error
	if len(parts) == 3 {
		p.point, p.side = parts[0], parts[1]
		p.hit, err = strconv.ParseInt(parts[2], 10, 64)
	}
	if len(parts) != 3 || err != nil {
		fmt.Fprintf(os.Stderr, "FAILPOINT=%q is not <point>:<before|after>:<n>\n", text)
		os.Exit(2)
	}
	return p
})

func pass(point, side string) {
	p := planned()
	if point != p.point || side != p.side {
		return
	}
	if p.arm != "" && !p.armed.Load() {
		if _, err := os.Stat(p.arm); err != nil {
			return
		}
		p.armed.Store(true)
	}
	if p.passed.Add(1) == p.hit {
		os.Exit(137)
	}
}
