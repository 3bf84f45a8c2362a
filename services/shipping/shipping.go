// Package shipping decides what happens to the parcel of an order: when a carrier
// is booked, when it can still be called off, what its scans mean. It knows no
// database, no transport and no other service.
package shipping

import (
	"context"
	"regexp"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/errs"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
)

// A State says where a parcel stands. States are stored by number.
type State uint8

// The states. New is also that of a parcel nobody has heard of.
const (
	New        State = iota // waits for the order or for its payment, whichever comes last
	Booking                 // a carrier is being booked
	Scheduled               // a carrier comes for it
	CallingOff              // the carrier is being called off
	Dispatched              // on its way
	Delivered               // handed over
	Returning               // on its way back, or expected to be
	Returned                // back in the house; final
	Refused                 // no carrier takes it; final
	Cancelled               // called off, or never to be booked; final
	Lost                    // will not arrive; final

	stateCount
)

var stateNames = [...]string{
	"NEW", "BOOKING", "SCHEDULED", "CALLING_OFF", "DISPATCHED", "DELIVERED", "RETURNING", "RETURNED", "REFUSED", "CANCELLED", "LOST",
}

// String gives the state's name.
func (s State) String() string {
	if s < stateCount {
		return stateNames[s]
	}
	return "UNKNOWN"
}

// Status gives the state as the contract names it.
func (s State) Status() shippingv1.ShipmentStatus {
	//exhaustive:enforce
	switch s {
	case New, Booking:
		return shippingv1.ShipmentStatus_SHIPMENT_STATUS_PENDING
	case Scheduled, CallingOff:
		return shippingv1.ShipmentStatus_SHIPMENT_STATUS_SCHEDULED
	case Dispatched:
		return shippingv1.ShipmentStatus_SHIPMENT_STATUS_DISPATCHED
	case Delivered:
		return shippingv1.ShipmentStatus_SHIPMENT_STATUS_DELIVERED
	case Returning:
		return shippingv1.ShipmentStatus_SHIPMENT_STATUS_RETURNING
	case Returned:
		return shippingv1.ShipmentStatus_SHIPMENT_STATUS_RETURNED
	case Refused:
		return shippingv1.ShipmentStatus_SHIPMENT_STATUS_REFUSED
	case Cancelled:
		return shippingv1.ShipmentStatus_SHIPMENT_STATUS_CANCELLED
	case Lost:
		return shippingv1.ShipmentStatus_SHIPMENT_STATUS_LOST
	}
	return shippingv1.ShipmentStatus_SHIPMENT_STATUS_UNSPECIFIED
}

// States lists all states.
func States() []State {
	all := make([]State, stateCount)
	for i := range all {
		all[i] = State(i)
	}
	return all
}

// Final reports whether nothing more will happen to the parcel by itself. A
// delivered parcel may still be sent back.
func (s State) Final() bool {
	return s == Delivered || s == Returned || s == Refused || s == Cancelled || s == Lost
}

// A Shipment is the parcel of one order. Its id as an aggregate is the order's.
type Shipment struct {
	OrderID      string
	ID           string // "" until it is known that there is something to send
	UserID       string
	State        State
	Placed, Paid bool // which of the two have been heard
	Undo         bool // to be called off as soon as the carrier has answered
	Booked       bool // a carrier was booked once, so calling it off was no no-op
	LostLate     bool // of Lost: after it was dispatched
	ShipTo       *typev1.Address
	Carrier      string
	Tracking     string
	Reason       string             // of Refused
	Scans        []*shippingv1.Scan // the last MaxScans, as they were reported
	Scanned      int64              // how many there ever were
	BookedAt     time.Time
	ReturnAt     time.Time // when it was asked back
	Created      time.Time
	Updated      time.Time
}

// MaxScans is how many scans of one parcel are kept. A scan that comes again
// after so many others counts once more; by then it changes nothing.
const MaxScans = 100

// An Input is one message to a shipment; which fields count depends on Message.
type Input struct {
	Message Message
	UserID  string           // OrderPlaced
	ShipTo  *typev1.Address  // OrderPlaced
	Carrier string           // BookingAccepted
	Number  string           // BookingAccepted
	Reason  string           // BookingRefused
	Scan    *shippingv1.Scan // the scans
}

// A Request is what is asked of the carrier. It is stored as JSON with the state
// that asks for it, so it holds no address: that is read when the call is made.
type Request struct {
	OrderID    string    `json:"order_id"`
	ShipmentID string    `json:"shipment_id"`
	RegionCode string    `json:"region_code,omitempty"`
	Tracking   string    `json:"tracking,omitempty"`
	BookedAt   time.Time `json:"booked_at,omitzero"`
	ReturnAt   time.Time `json:"return_at,omitzero"`
}

// A Call is what is to be asked of the carrier after the commit.
type Call uint8

// The calls.
const (
	Book Call = iota + 1
	CallOff
	Track
)

// An Outcome is what comes of an input. Nothing has to be stored unless Changed.
type Outcome struct {
	Changed bool
	Events  []proto.Message
	Calls   []Call
	Alarm   bool   // the message contradicts what is known
	Rejects string // why a scan could not be used, "" if it could
	Known   bool   // the scan had come before
}

// An Answer is the carrier's answer to a booking.
type Answer struct {
	Accepted bool
	Carrier  string
	Tracking string
	Reason   string // of a refusal
}

// Check tells whether the answer can be meant: an acceptance names the carrier
// and a number by which scans can be reported.
func (a Answer) Check() error {
	if a.Accepted && (a.Carrier == "" || !trackingNumber.MatchString(a.Tracking)) {
		return errs.E(errs.Unavailable, "CARRIER_UNCLEAR", "the carrier accepted without a usable tracking number: %q", a.Tracking)
	}
	return nil
}

// trackingNumber is what the contract takes for one.
var trackingNumber = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)

// AddressOf reads where a parcel goes.
type AddressOf func(ctx context.Context) (*typev1.Address, error)

// A Carrier takes parcels to people. Its methods return an error when nothing is
// known; they are called again then, with the same key. What the carrier decided
// is in the answer. An implementation must be safe for concurrent use.
type Carrier interface {
	// Book asks for a parcel to be fetched. The same key is the same booking. The
	// address is read only if it is asked for.
	Book(ctx context.Context, key string, r Request, to AddressOf) (Answer, error)
	// CallOff asks for it not to be fetched, and says whether that is still possible.
	CallOff(ctx context.Context, key string, r Request) (done bool, err error)
	// Track gives what was seen of a parcel so far, oldest first.
	Track(ctx context.Context, r Request) ([]*shippingv1.Scan, error)
}
