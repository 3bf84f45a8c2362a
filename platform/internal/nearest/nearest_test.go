package nearest

import "testing"

func TestTheNearestNameIsFoundIfItIsNear(t *testing.T) {
	known := []string{"workers", "grpc.addr", "page_size", "a"}
	for written, want := range map[string]string{
		"wrokers": "workers", "worker": "workers", "grpc.adr": "grpc.addr", "pagesize": "page_size", "zzzzzzzz": "", "b": "a", "paid": "",
	} {
		got, ok := Name(written, known)
		if got != want || ok != (want != "") {
			t.Errorf("%s: got %q %v", written, got, ok)
		}
	}
}
