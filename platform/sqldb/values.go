package sqldb

import "strings"

// OrNull gives a value for a nullable column: NULL for the zero value.
func OrNull[T comparable](v T) any {
	var zero T
	if v == zero {
		return nil
	}
	return v
}

// OrZero reads a value from a nullable column, scanned through a pointer: the
// zero value for NULL.
func OrZero[T any](p *T) T {
	var zero T
	if p == nil {
		return zero
	}
	return *p
}

// In gives what stands between the parentheses of IN, and its arguments; there
// must be at least one. The number of marks is a power of two, filled up with the
// last value, so that there are few different statements to prepare.
func In(values []string) (marks string, args []any) {
	n := 1
	for n < len(values) {
		n *= 2
	}
	args = make([]any, n)
	for i := range args {
		args[i] = values[min(i, len(values)-1)]
	}
	return strings.Repeat("?, ", n-1) + "?", args
}
