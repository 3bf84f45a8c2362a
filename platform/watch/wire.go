package watch

import (
	"encoding/binary"
	"errors"
)

// A notification is the sender (8 bytes), then for each change: key length,
// key, version (zigzag), data length plus one (0 means nil), data. Numbers are
// varints.
const (
	selfSize = 8
	maxSize  = 512 << 10 // of one notification; brokers refuse 1 MiB
)

// encode gives as few notifications as the size limit allows. A change that
// does not fit alone goes without its data, marked so that the reader reads it.
func encode(self string, changes []Change) [][]byte {
	var out [][]byte
	buf := make([]byte, 0, 64*len(changes)+selfSize)
	buf = append(buf, self...)
	for i := range changes {
		c := &changes[i]
		data := c.Data
		if len(c.Key)+len(data) > maxSize-64 {
			data = nil
		}
		if len(buf) > selfSize && len(buf)+len(c.Key)+len(data)+3*binary.MaxVarintLen64 > maxSize {
			out = append(out, buf)
			buf = append(make([]byte, 0, maxSize), self...)
		}
		buf = binary.AppendUvarint(buf, uint64(len(c.Key)))
		buf = append(buf, c.Key...)
		buf = binary.AppendVarint(buf, c.Version)
		if data == nil {
			buf = append(buf, 0)
			continue
		}
		buf = binary.AppendUvarint(buf, uint64(len(data))+1)
		buf = append(buf, data...)
	}
	return append(out, buf)
}

var errFormat = errors.New("watch: malformed notification")

// decode calls fn for each change of a notification unless self sent it. key
// and data are parts of msg.
func decode(self string, msg []byte, fn func(key []byte, version int64, data []byte)) error {
	if len(msg) < selfSize {
		return errFormat
	}
	if string(msg[:selfSize]) == self {
		return nil
	}
	for msg = msg[selfSize:]; len(msg) > 0; {
		key, rest, ok := cutBytes(msg, 0)
		if !ok {
			return errFormat
		}
		version, n := binary.Varint(rest)
		if n <= 0 {
			return errFormat
		}
		data, rest, ok := cutBytes(rest[n:], 1)
		if !ok {
			return errFormat
		}
		fn(key, version, data)
		msg = rest
	}
	return nil
}

// cutBytes reads a length and that many bytes. With off 1 the length is one
// more than it says and zero stands for nil.
func cutBytes(msg []byte, off uint64) (b, rest []byte, ok bool) {
	size, n := binary.Uvarint(msg)
	if n <= 0 {
		return nil, nil, false
	}
	msg = msg[n:]
	if off == 1 {
		if size == 0 {
			return nil, msg, true
		}
		size--
	}
	if size > uint64(len(msg)) {
		return nil, nil, false
	}
	return msg[:size:size], msg[size:], true
}
