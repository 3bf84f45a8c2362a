package watch

import (
	"encoding/binary"
	"errors"
)

// A notification is the sender (8 bytes), then for each change: key length,
// key, version (zigzag), what the data is, data. Numbers are varints. What the
// data is: 0 nil, 1 left out because of a lag, otherwise its length plus 2.
const (
	selfSize = 8
	maxSize  = 512 << 10 // of one notification; brokers refuse 1 MiB
)

const (
	dataNil    = 0
	dataLagged = 1
	dataOffset = 2
)

// encode gives as few notifications as the size limit allows. A change whose
// data does not fit into one becomes a lagged one.
func encode(self string, changes []Change) [][]byte {
	var out [][]byte
	buf := append(make([]byte, 0, 64*len(changes)+selfSize), self...)
	for i := range changes {
		c := &changes[i]
		size := len(c.Key) + len(c.Data) + 3*binary.MaxVarintLen64
		lagged := c.Lagged || size > maxSize-selfSize
		if lagged {
			size = len(c.Key) + 3*binary.MaxVarintLen64
		}
		if len(buf) > selfSize && len(buf)+size > maxSize {
			out = append(out, buf)
			buf = append(make([]byte, 0, maxSize), self...)
		}
		buf = binary.AppendUvarint(buf, uint64(len(c.Key)))
		buf = append(buf, c.Key...)
		buf = binary.AppendVarint(buf, c.Version)
		switch {
		case lagged:
			buf = append(buf, dataLagged)
		case c.Data == nil:
			buf = append(buf, dataNil)
		default:
			buf = binary.AppendUvarint(buf, uint64(len(c.Data))+dataOffset)
			buf = append(buf, c.Data...)
		}
	}
	return append(out, buf)
}

var errFormat = errors.New("watch: malformed notification")

// decode calls fn for each change of a notification unless self sent it. key
// and c.Data are parts of msg; c has no Key yet.
func decode(self string, msg []byte, fn func(key []byte, c Change)) error {
	if len(msg) < selfSize {
		return errFormat
	}
	if string(msg[:selfSize]) == self {
		return nil
	}
	for msg = msg[selfSize:]; len(msg) > 0; {
		size, n := binary.Uvarint(msg)
		if n <= 0 || size > uint64(len(msg)-n) {
			return errFormat
		}
		key := msg[n : n+int(size)]
		msg = msg[n+int(size):]

		var c Change
		if c.Version, n = binary.Varint(msg); n <= 0 {
			return errFormat
		}
		msg = msg[n:]

		what, n := binary.Uvarint(msg)
		if n <= 0 {
			return errFormat
		}
		msg = msg[n:]
		switch what {
		case dataNil:
		case dataLagged:
			c.Lagged = true
		default:
			size := what - dataOffset
			if size > uint64(len(msg)) {
				return errFormat
			}
			c.Data = msg[:size:size]
			msg = msg[size:]
		}
		fn(key, c)
	}
	return nil
}
