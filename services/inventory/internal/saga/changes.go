package saga

import (
	"encoding/binary"
	"time"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/services/inventory"
)

// EncodeChange gives what a change of stock carries to those who watch it.
func EncodeChange(s inventory.Stock) []byte {
	b := make([]byte, 0, 2*binary.MaxVarintLen64)
	b = binary.AppendVarint(b, s.Available())
	return binary.AppendVarint(b, s.UpdatedAt.UnixMicro())
}

// DecodeChange reads what EncodeChange wrote.
func DecodeChange(data []byte) (available int64, updated time.Time, err error) {
	available, n := binary.Varint(data)
	if n <= 0 {
		return 0, time.Time{}, errs.E(errs.Internal, "", "malformed change of stock")
	}
	micros, m := binary.Varint(data[n:])
	if m <= 0 {
		return 0, time.Time{}, errs.E(errs.Internal, "", "malformed change of stock")
	}
	return available, time.UnixMicro(micros).UTC(), nil
}
