package payment

// A Rule is what a payment does about a message.
type Rule uint8

// The rules. Zero is no rule: a hole in the table, which a test refuses.
const (
	noRule      Rule = iota
	Ignore           // late, repeated, or it says nothing new; everything stays
	Alarm            // it contradicts what is known; everything stays and people are called
	Join             // note it; when the order is known and its goods are held, authorize if there is time enough
	Note             // note it for later
	Bury             // nothing was asked of the provider and nothing will be
	Describe         // too late to be paid; note whose it was
	Wait             // note the wish; it is done when the outcome of what is under way is known
	Reply            // nothing is left to undo: answer, as before if it was answered
	SetFree          // void the authorization
	GiveBack         // refund what is left, wait for refunds under way, answer
	RefundSome       // refund what was asked for, if it is there
	Refuse           // not captured: the command fails
	Take             // capture
	HoldMoney        // book it; tell, and capture if the goods are committed; if undoing is wished for, void
	Decline          // tell, or answer the wish to undo
	KeepMoney        // book it; tell; if undoing is wished for, refund
	FailCapture      // tell; if undoing is wished for, void
	FreeMoney        // book it and answer
	PayBack          // book it, tell, answer when it was the last
	Doubt            // tell that it is unknown, query with growing delay
	AskAgain         // query once more, later; after long asking call people
	SendAgain        // ask for the same operation with the same key, later
)

var ruleNames = [...]string{
	"", "ignore", "alarm", "join", "note", "bury", "describe", "wait", "reply", "set free", "give back", "refund", "refuse", "take",
	"hold money", "decline", "keep money", "fail capture", "free money", "pay back", "doubt", "ask again", "send again",
}

// String gives the rule's name in lower case.
func (r Rule) String() string { return ruleNames[r] }

// RuleFor gives the rule for a message in a state. There is one for every pair.
func RuleFor(s State, m Message) Rule {
	if s >= stateCount || m >= messageCount {
		return Alarm
	}
	return table[s][m]
}

// table is total. Of the provider's answers, those that say nothing (unanswered,
// never seen) are ignored where none is awaited; a second yes or no is ignored
// where the first is known, and alarms where it is the opposite or was never
// asked for. Answers about refunds, once money was taken, are for the refund they
// name.
var table = [stateCount][messageCount]Rule{
	New: {
		OrderPlaced: Join, OrderRejected: Bury, StockHeld: Join, StockCommitted: Note,
		CancelRequested: Bury, ReturnRequested: Bury, RefundRequested: Refuse,
		AuthorizeApproved: Alarm, AuthorizeRefused: Ignore, AuthorizeUnanswered: Ignore, AuthorizeNeverSeen: Ignore,
		CaptureApproved: Alarm, CaptureRefused: Ignore, CaptureUnanswered: Ignore, CaptureNeverSeen: Ignore,
		VoidApproved: Alarm, VoidRefused: Ignore, VoidUnanswered: Ignore, VoidNeverSeen: Ignore,
		PaybackApproved: Alarm, PaybackRefused: Ignore, PaybackUnanswered: Ignore, PaybackNeverSeen: Ignore,
	},
	Authorizing: {
		OrderPlaced: Ignore, OrderRejected: Alarm, StockHeld: Ignore, StockCommitted: Note,
		CancelRequested: Wait, ReturnRequested: Wait, RefundRequested: Refuse,
		AuthorizeApproved: HoldMoney, AuthorizeRefused: Decline, AuthorizeUnanswered: Doubt, AuthorizeNeverSeen: Ignore,
		CaptureApproved: Alarm, CaptureRefused: Ignore, CaptureUnanswered: Ignore, CaptureNeverSeen: Ignore,
		VoidApproved: Alarm, VoidRefused: Ignore, VoidUnanswered: Ignore, VoidNeverSeen: Ignore,
		PaybackApproved: Alarm, PaybackRefused: Ignore, PaybackUnanswered: Ignore, PaybackNeverSeen: Ignore,
	},
	AuthorizeUnknown: {
		OrderPlaced: Ignore, OrderRejected: Alarm, StockHeld: Ignore, StockCommitted: Note,
		CancelRequested: Wait, ReturnRequested: Wait, RefundRequested: Refuse,
		AuthorizeApproved: HoldMoney, AuthorizeRefused: Decline, AuthorizeUnanswered: AskAgain, AuthorizeNeverSeen: SendAgain,
		CaptureApproved: Alarm, CaptureRefused: Ignore, CaptureUnanswered: Ignore, CaptureNeverSeen: Ignore,
		VoidApproved: Alarm, VoidRefused: Ignore, VoidUnanswered: Ignore, VoidNeverSeen: Ignore,
		PaybackApproved: Alarm, PaybackRefused: Ignore, PaybackUnanswered: Ignore, PaybackNeverSeen: Ignore,
	},
	Authorized: {
		OrderPlaced: Ignore, OrderRejected: Alarm, StockHeld: Ignore, StockCommitted: Take,
		CancelRequested: SetFree, ReturnRequested: SetFree, RefundRequested: Refuse,
		AuthorizeApproved: Ignore, AuthorizeRefused: Alarm, AuthorizeUnanswered: Ignore, AuthorizeNeverSeen: Ignore,
		CaptureApproved: Alarm, CaptureRefused: Ignore, CaptureUnanswered: Ignore, CaptureNeverSeen: Ignore,
		VoidApproved: Alarm, VoidRefused: Ignore, VoidUnanswered: Ignore, VoidNeverSeen: Ignore,
		PaybackApproved: Alarm, PaybackRefused: Ignore, PaybackUnanswered: Ignore, PaybackNeverSeen: Ignore,
	},
	Declined: {
		OrderPlaced: Ignore, OrderRejected: Ignore, StockHeld: Ignore, StockCommitted: Alarm,
		CancelRequested: Reply, ReturnRequested: Reply, RefundRequested: Refuse,
		AuthorizeApproved: Alarm, AuthorizeRefused: Ignore, AuthorizeUnanswered: Ignore, AuthorizeNeverSeen: Ignore,
		CaptureApproved: Alarm, CaptureRefused: Ignore, CaptureUnanswered: Ignore, CaptureNeverSeen: Ignore,
		VoidApproved: Alarm, VoidRefused: Ignore, VoidUnanswered: Ignore, VoidNeverSeen: Ignore,
		PaybackApproved: Alarm, PaybackRefused: Ignore, PaybackUnanswered: Ignore, PaybackNeverSeen: Ignore,
	},
	Capturing: {
		OrderPlaced: Ignore, OrderRejected: Alarm, StockHeld: Ignore, StockCommitted: Ignore,
		CancelRequested: Wait, ReturnRequested: Wait, RefundRequested: Refuse,
		AuthorizeApproved: Ignore, AuthorizeRefused: Alarm, AuthorizeUnanswered: Ignore, AuthorizeNeverSeen: Ignore,
		CaptureApproved: KeepMoney, CaptureRefused: FailCapture, CaptureUnanswered: Doubt, CaptureNeverSeen: Ignore,
		VoidApproved: Alarm, VoidRefused: Ignore, VoidUnanswered: Ignore, VoidNeverSeen: Ignore,
		PaybackApproved: Alarm, PaybackRefused: Ignore, PaybackUnanswered: Ignore, PaybackNeverSeen: Ignore,
	},
	CaptureUnknown: {
		OrderPlaced: Ignore, OrderRejected: Alarm, StockHeld: Ignore, StockCommitted: Ignore,
		CancelRequested: Wait, ReturnRequested: Wait, RefundRequested: Refuse,
		AuthorizeApproved: Ignore, AuthorizeRefused: Alarm, AuthorizeUnanswered: Ignore, AuthorizeNeverSeen: Ignore,
		CaptureApproved: KeepMoney, CaptureRefused: FailCapture, CaptureUnanswered: AskAgain, CaptureNeverSeen: SendAgain,
		VoidApproved: Alarm, VoidRefused: Ignore, VoidUnanswered: Ignore, VoidNeverSeen: Ignore,
		PaybackApproved: Alarm, PaybackRefused: Ignore, PaybackUnanswered: Ignore, PaybackNeverSeen: Ignore,
	},
	Captured: {
		OrderPlaced: Ignore, OrderRejected: Alarm, StockHeld: Ignore, StockCommitted: Ignore,
		CancelRequested: GiveBack, ReturnRequested: GiveBack, RefundRequested: RefundSome,
		AuthorizeApproved: Ignore, AuthorizeRefused: Alarm, AuthorizeUnanswered: Ignore, AuthorizeNeverSeen: Ignore,
		CaptureApproved: Ignore, CaptureRefused: Alarm, CaptureUnanswered: Ignore, CaptureNeverSeen: Ignore,
		VoidApproved: Alarm, VoidRefused: Ignore, VoidUnanswered: Ignore, VoidNeverSeen: Ignore,
		PaybackApproved: PayBack, PaybackRefused: Ignore, PaybackUnanswered: Ignore, PaybackNeverSeen: Ignore,
	},
	CaptureFailed: {
		OrderPlaced: Ignore, OrderRejected: Alarm, StockHeld: Ignore, StockCommitted: Ignore,
		CancelRequested: SetFree, ReturnRequested: SetFree, RefundRequested: Refuse,
		AuthorizeApproved: Ignore, AuthorizeRefused: Alarm, AuthorizeUnanswered: Ignore, AuthorizeNeverSeen: Ignore,
		CaptureApproved: Alarm, CaptureRefused: Ignore, CaptureUnanswered: Ignore, CaptureNeverSeen: Ignore,
		VoidApproved: Alarm, VoidRefused: Ignore, VoidUnanswered: Ignore, VoidNeverSeen: Ignore,
		PaybackApproved: Alarm, PaybackRefused: Ignore, PaybackUnanswered: Ignore, PaybackNeverSeen: Ignore,
	},
	Voiding: {
		OrderPlaced: Ignore, OrderRejected: Alarm, StockHeld: Ignore, StockCommitted: Ignore,
		CancelRequested: Wait, ReturnRequested: Wait, RefundRequested: Refuse,
		AuthorizeApproved: Ignore, AuthorizeRefused: Alarm, AuthorizeUnanswered: Ignore, AuthorizeNeverSeen: Ignore,
		CaptureApproved: Alarm, CaptureRefused: Ignore, CaptureUnanswered: Ignore, CaptureNeverSeen: Ignore,
		VoidApproved: FreeMoney, VoidRefused: SendAgain, VoidUnanswered: Doubt, VoidNeverSeen: Ignore,
		PaybackApproved: Alarm, PaybackRefused: Ignore, PaybackUnanswered: Ignore, PaybackNeverSeen: Ignore,
	},
	VoidUnknown: {
		OrderPlaced: Ignore, OrderRejected: Alarm, StockHeld: Ignore, StockCommitted: Ignore,
		CancelRequested: Wait, ReturnRequested: Wait, RefundRequested: Refuse,
		AuthorizeApproved: Ignore, AuthorizeRefused: Alarm, AuthorizeUnanswered: Ignore, AuthorizeNeverSeen: Ignore,
		CaptureApproved: Alarm, CaptureRefused: Ignore, CaptureUnanswered: Ignore, CaptureNeverSeen: Ignore,
		VoidApproved: FreeMoney, VoidRefused: SendAgain, VoidUnanswered: AskAgain, VoidNeverSeen: SendAgain,
		PaybackApproved: Alarm, PaybackRefused: Ignore, PaybackUnanswered: Ignore, PaybackNeverSeen: Ignore,
	},
	Voided: {
		OrderPlaced: Ignore, OrderRejected: Alarm, StockHeld: Ignore, StockCommitted: Ignore,
		CancelRequested: Reply, ReturnRequested: Reply, RefundRequested: Refuse,
		AuthorizeApproved: Ignore, AuthorizeRefused: Alarm, AuthorizeUnanswered: Ignore, AuthorizeNeverSeen: Ignore,
		CaptureApproved: Alarm, CaptureRefused: Ignore, CaptureUnanswered: Ignore, CaptureNeverSeen: Ignore,
		VoidApproved: Ignore, VoidRefused: Alarm, VoidUnanswered: Ignore, VoidNeverSeen: Ignore,
		PaybackApproved: Alarm, PaybackRefused: Ignore, PaybackUnanswered: Ignore, PaybackNeverSeen: Ignore,
	},
	Refunding: {
		OrderPlaced: Ignore, OrderRejected: Alarm, StockHeld: Ignore, StockCommitted: Ignore,
		CancelRequested: GiveBack, ReturnRequested: GiveBack, RefundRequested: RefundSome,
		AuthorizeApproved: Ignore, AuthorizeRefused: Alarm, AuthorizeUnanswered: Ignore, AuthorizeNeverSeen: Ignore,
		CaptureApproved: Ignore, CaptureRefused: Alarm, CaptureUnanswered: Ignore, CaptureNeverSeen: Ignore,
		VoidApproved: Alarm, VoidRefused: Ignore, VoidUnanswered: Ignore, VoidNeverSeen: Ignore,
		PaybackApproved: PayBack, PaybackRefused: SendAgain, PaybackUnanswered: Doubt, PaybackNeverSeen: SendAgain,
	},
	Refunded: {
		OrderPlaced: Ignore, OrderRejected: Alarm, StockHeld: Ignore, StockCommitted: Ignore,
		CancelRequested: Reply, ReturnRequested: Reply, RefundRequested: RefundSome,
		AuthorizeApproved: Ignore, AuthorizeRefused: Alarm, AuthorizeUnanswered: Ignore, AuthorizeNeverSeen: Ignore,
		CaptureApproved: Ignore, CaptureRefused: Alarm, CaptureUnanswered: Ignore, CaptureNeverSeen: Ignore,
		VoidApproved: Alarm, VoidRefused: Ignore, VoidUnanswered: Ignore, VoidNeverSeen: Ignore,
		PaybackApproved: PayBack, PaybackRefused: Ignore, PaybackUnanswered: Ignore, PaybackNeverSeen: Ignore,
	},
	Tombstoned: {
		OrderPlaced: Describe, OrderRejected: Ignore, StockHeld: Ignore, StockCommitted: Ignore,
		CancelRequested: Reply, ReturnRequested: Reply, RefundRequested: Refuse,
		AuthorizeApproved: Alarm, AuthorizeRefused: Ignore, AuthorizeUnanswered: Ignore, AuthorizeNeverSeen: Ignore,
		CaptureApproved: Alarm, CaptureRefused: Ignore, CaptureUnanswered: Ignore, CaptureNeverSeen: Ignore,
		VoidApproved: Alarm, VoidRefused: Ignore, VoidUnanswered: Ignore, VoidNeverSeen: Ignore,
		PaybackApproved: Alarm, PaybackRefused: Ignore, PaybackUnanswered: Ignore, PaybackNeverSeen: Ignore,
	},
}
