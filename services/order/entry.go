package order

import (
	"fmt"

	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
)

// PlacedEntry gives the first entry of an order's waybill, for the request of that
// key. Whoever records it says when that was, and in which trace.
func PlacedEntry(d Details, request string) *orderv1.WaybillEntry {
	detail := fmt.Sprintf("%d products, %s", len(d.Lines), Amount(d.Total))
	if len(d.Lines) == 1 {
		detail = "1 product, " + Amount(d.Total)
	}
	return &orderv1.WaybillEntry{Service: "order", Event: "order_placed", ToStatus: Placed, Detail: detail, CauseId: request}
}

// Entry gives the entry of the waybill for a message and what it came to. Whoever
// records it says when that was, in which trace, and by which event.
func Entry(in Input, out Outcome) *orderv1.WaybillEntry {
	e := &orderv1.WaybillEntry{
		Service:    in.Message.Service(),
		Event:      in.Message.Event(),
		FromStatus: out.From,
		ToStatus:   out.To,
		Detail:     out.Detail,
		CauseId:    in.Request,
	}
	if out.Action == Remind { // by the name of what is repeated
		e.Event = CancelRequested.Event()
		if out.From == Returning {
			e.Event = ReturnRequested.Event()
		}
	}
	return e
}
