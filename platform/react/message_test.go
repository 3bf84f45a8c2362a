package react

import "testing"

func TestATraceparentIsReadAsItIsWritten(t *testing.T) {
	for _, sampled := range []string{"00", "01"} {
		want := "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-" + sampled
		if got := formatTrace(parseTrace(want)); got != want {
			t.Errorf("%s became %s", want, got)
		}
	}
}

func TestAMalformedTraceparentIsNoTrace(t *testing.T) {
	for _, bad := range []string{
		"", "00", "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
		"00-0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331-01", "00-zaf7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		"00-00000000000000000000000000000000-b7ad6b7169203331-01", "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
	} {
		if sc := parseTrace(bad); formatTrace(sc) != "" {
			t.Errorf("%q gives %s", bad, formatTrace(sc))
		}
	}
}
