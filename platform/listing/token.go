package listing

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"strconv"
	"strings"
	"time"
)

// sumLen is the length of the two checksums around a token's values.
const sumLen = 16

var tokens = base64.RawURLEncoding.Strict()

// seal makes a page token of the sorted-by values of the last row: a checksum
// over what it belongs to and over the values, then the values. The checksum is
// there against mistakes; a forged token gives its maker no row that the same
// query without a token would not.
func (p *Page) seal(last []any) string {
	texts := make([]string, len(last))
	for i, v := range last {
		switch v := v.(type) {
		case time.Time:
			texts[i] = strconv.FormatInt(v.UnixMicro(), 10)
		case int64:
			texts[i] = strconv.FormatInt(v, 10)
		case string:
			texts[i] = v
		default:
			panic("listing: rows are sorted by string, int64 or time.Time")
		}
	}
	values, err := json.Marshal(texts)
	if err != nil {
		panic(err) // strings always encode
	}
	sum := p.sum(values)
	return tokens.EncodeToString(append(sum[:], values...))
}

// open gives the values of a page token, if it belongs to this page.
func (p *Page) open(token string) ([]any, bool) {
	if len(token) > maxToken || strings.ContainsAny(token, "\r\n") { // which the decoder would skip
		return nil, false
	}
	data, err := tokens.DecodeString(token)
	if err != nil || len(data) < sumLen {
		return nil, false
	}
	values := data[sumLen:]
	if sum := p.sum(values); !bytes.Equal(sum[:], data[:sumLen]) {
		return nil, false
	}
	var texts []string
	dec := json.NewDecoder(bytes.NewReader(values))
	if dec.Decode(&texts) != nil || len(texts) != len(p.order) {
		return nil, false
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, false
	}
	last := make([]any, len(texts))
	for i, text := range texts {
		switch p.order[i].typ {
		case Int, Time:
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				return nil, false
			}
			last[i] = n
			if p.order[i].typ == Time {
				at := time.UnixMicro(n).UTC()
				if at.Year() < 1 || at.Year() > 9999 {
					return nil, false
				}
				last[i] = at
			}
		default:
			if !storable(text) {
				return nil, false
			}
			last[i] = text
		}
	}
	return last, true
}

func (p *Page) sum(values []byte) [sumLen]byte {
	sum := sha256.Sum256(append(p.bound[:], values...))
	return [sumLen]byte(sum[:sumLen])
}
