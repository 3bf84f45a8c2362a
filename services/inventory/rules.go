package inventory

// A State says where a hold stands. docs/saga-inventory.md has the whole table.
type State string

// The states of a hold. The zero State is that of an order inventory has not
// heard of.
const (
	None          State = ""
	Waiting       State = "WAITING"    // the payment came before the order
	Held          State = "HELD"       // set aside until it expires
	Committed     State = "COMMITTED"  // sold: it has left the stock
	Rejected      State = "REJECTED"   // could not be held
	Expired       State = "EXPIRED"    // was held, and went back when its time was over
	Released      State = "RELEASED"   // was held, and went back because the order was undone
	RestockedHold State = "RESTOCKED"  // was sold, and came back because the order was undone or returned
	Tombstoned    State = "TOMBSTONED" // the order was undone before anything was held; nothing may be held any more
)

// States lists all states.
func States() []State {
	return []State{None, Waiting, Held, Committed, Rejected, Expired, Released, RestockedHold, Tombstoned}
}

// An Input is something a hold can be asked.
type Input string

// The inputs of a hold: three events of other services, and time.
const (
	OrderPlaced       Input = "OrderPlaced"
	PaymentAuthorized Input = "PaymentAuthorized"
	PaymentReversed   Input = "PaymentReversed"
	Due               Input = "expiry"
)

// Inputs lists all inputs.
func Inputs() []Input { return []Input{OrderPlaced, PaymentAuthorized, PaymentReversed, Due} }

// An Action is what a rule tells to do.
type Action string

// The actions.
const (
	Reserve        Action = "reserve"          // hold all lines or none
	ReserveAndSell Action = "reserve and sell" // the same, and sell at once
	Wait           Action = "wait"             // remember that the payment is there
	Sell           Action = "sell"             // if in time, else expire
	Expire         Action = "expire"           // if it is due
	Release        Action = "release"          // what is held goes back
	Restock        Action = "restock"          // what was sold goes back
	Tombstone      Action = "tombstone"        // nothing is there; nothing may come
	Answer         Action = "answer again"     // nothing changes; say how it stands
	Ignore         Action = "ignore"           // nothing changes, nothing is said
	Alarm          Action = "alarm"            // must not happen; becomes a dead letter
)

// Outcomes says, in the words of the documentation, what an action can lead to.
func (a Action) Outcomes() string {
	switch a {
	case Reserve:
		return "HELD, `StockHeld`; or REJECTED, `StockRejected`"
	case ReserveAndSell:
		return "COMMITTED, `StockHeld` and `StockCommitted`; or EXPIRED, `StockExpired`"
	case Wait:
		return "WAITING"
	case Sell:
		return "COMMITTED, `StockCommitted`; or, if too late, EXPIRED, `StockExpired`"
	case Expire:
		return "EXPIRED, `StockExpired`; not due: nothing"
	case Release:
		return "RELEASED, `StockReleased`"
	case Restock:
		return "RESTOCKED, `StockReleased` restocked"
	case Tombstone:
		return "TOMBSTONED, `StockReleased` noop"
	}
	return ""
}

// A Rule is one cell of the table.
type Rule struct {
	Do  Action
	Why string
}

// Rules is the transition table of holds. It has a rule for every known state and
// input; false means that one of them is not known.
func Rules(s State, in Input) (Rule, bool) {
	r, ok := table[in][s]
	return r, ok
}

var table = map[Input]map[State]Rule{
	OrderPlaced: {
		None:          {Reserve, "all lines or none"},
		Waiting:       {ReserveAndSell, "it is paid for already; if it cannot be had, StockExpired has the payment undone"},
		Held:          {Ignore, "a repetition"},
		Committed:     {Ignore, "a repetition"},
		Rejected:      {Ignore, "a repetition"},
		Expired:       {Ignore, "a repetition"},
		Released:      {Ignore, "a repetition"},
		RestockedHold: {Ignore, "a repetition"},
		Tombstoned:    {Ignore, "the order was undone before this came"},
	},
	PaymentAuthorized: {
		None:          {Wait, "it overtook the order; no event flow leads here, a restored database may"},
		Waiting:       {Ignore, "a repetition"},
		Held:          {Sell, "the one moment at which stock is sold"},
		Committed:     {Answer, "`StockCommitted`"},
		Rejected:      {Alarm, "a payment starts only after StockHeld"},
		Expired:       {Answer, "`StockExpired`: too late"},
		Released:      {Ignore, "it was undone before this came"},
		RestockedHold: {Ignore, "it was undone before this came"},
		Tombstoned:    {Ignore, "it was undone before this came"},
	},
	PaymentReversed: {
		None:          {Tombstone, "a late OrderPlaced must find the door closed"},
		Waiting:       {Tombstone, "the payment is undone; a late OrderPlaced must find the door closed"},
		Held:          {Release, "it was not sold yet"},
		Committed:     {Restock, "the order was undone or returned"},
		Rejected:      {Answer, "`StockReleased` noop"},
		Expired:       {Answer, "`StockReleased` noop"},
		Released:      {Answer, "`StockReleased`"},
		RestockedHold: {Answer, "`StockReleased` restocked"},
		Tombstoned:    {Answer, "`StockReleased` noop"},
	},
	Due: {
		None:          {Ignore, "nothing is held"},
		Waiting:       {Ignore, "nothing is held"},
		Held:          {Expire, "the sweep asks outside the transaction, so it is looked at again"},
		Committed:     {Ignore, "sold just before"},
		Rejected:      {Ignore, "nothing is held"},
		Expired:       {Ignore, "another replica was faster"},
		Released:      {Ignore, "given back just before"},
		RestockedHold: {Ignore, "given back just before"},
		Tombstoned:    {Ignore, "nothing is held"},
	},
}
