//go:build !failpoints

package failpoint

// Enabled tells whether this build can die at points.
const Enabled = false

// Before is called just before the step that a point names.
func Before(string) {}

// After is called just after it.
func After(string) {}
