package sqldb

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTheZeroValueIsNullAndBack(t *testing.T) {
	if OrNull("") != nil || OrNull(int64(0)) != nil || OrNull(time.Time{}) != nil {
		t.Error("a zero value is not NULL")
	}
	now := time.Now()
	if OrNull("a") != "a" || OrNull(now) != now {
		t.Error("a value is not itself")
	}
	if s := "a"; OrZero(&s) != "a" || OrZero[string](nil) != "" {
		t.Error("NULL is not read as the zero value")
	}
}

func TestInHasFewShapes(t *testing.T) {
	for want, values := range map[string][]string{
		"?":                      {"a"},
		"?, ?":                   {"a", "b"},
		"?, ?, ?, ?":             {"a", "b", "c"},
		"?, ?, ?, ?, ?, ?, ?, ?": {"a", "b", "c", "d", "e"},
	} {
		marks, args := In(values)
		if marks != want {
			t.Errorf("%v: %s", values, marks)
		}
		for i, v := range values {
			if args[i] != v {
				t.Errorf("%v: arguments %v", values, args)
			}
		}
		if last := args[len(args)-1]; last != values[len(values)-1] {
			t.Errorf("%v is filled up with %v", values, last)
		}
	}
	_, args := In([]string{"a", "b", "c"})
	if diff := cmp.Diff([]any{"a", "b", "c", "c"}, args); diff != "" {
		t.Error(diff)
	}
}
