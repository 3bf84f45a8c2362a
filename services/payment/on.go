package payment

import (
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/errs"
)

// Policy is how long and how often a payment tries.
type Policy struct {
	ProviderTimeout time.Duration // how long the provider has for one answer
	Margin          time.Duration // what must be left of the hold when it has answered
	FirstRetry      time.Duration // wait before the first query or repetition; each next waits twice as long
	MaxRetry        time.Duration // but no longer than this
	GiveUp          time.Duration // how long to try with the same key; providers forget keys after a day
}

// DefaultPolicy gives the policy that fits most providers.
func DefaultPolicy() Policy {
	return Policy{
		ProviderTimeout: 2 * time.Second,
		Margin:          time.Second,
		FirstRetry:      200 * time.Millisecond,
		MaxRetry:        time.Minute,
		GiveUp:          20 * time.Hour,
	}
}

// Env is what a payment needs to know of the world to take an input.
type Env struct {
	Now    time.Time
	NewID  func() string
	Policy Policy
}

// Call is something to be asked of the provider once the new state is stored.
type Call struct {
	Request Request
	Query   bool          // ask what became of it, instead of asking for it
	After   time.Duration // not before this has passed
}

// Result is what an input leaves behind besides the new state.
type Result struct {
	Changed bool // the state is not what it was
	Rule    Rule
	Events  []proto.Message
	Calls   []Call
	Entries []Entry
	Alarm   string // for people, if not ""
}

// On takes one input and gives the next state and what it leaves behind. It is
// pure but for NewID. Only commands and inputs that can never make sense fail;
// then nothing is to be kept.
func (p Payment) On(in Input, env Env) (Payment, Result, error) {
	p.Rare.Refunds = slices.Clone(p.Rare.Refunds)
	s := step{p: p, in: in, env: env}
	s.out.Rule = RuleFor(p.State, in.Message)
	if err := s.apply(); err != nil {
		return p, Result{}, err
	}
	if s.out.Changed {
		s.p.Updated = env.Now
	}
	return s.p, s.out, nil
}

// step is one run of On.
type step struct {
	p   Payment
	in  Input
	env Env
	out Result
}

func (s *step) apply() error {
	switch s.out.Rule {
	case Ignore:
	case Alarm:
		s.out.Alarm = s.in.Message.String() + " does not fit a payment that is " + s.p.State.String()
	case Join:
		return s.join()
	case Note:
		s.note(SeenCommitted)
	case Bury:
		s.bury()
	case Describe:
		return s.describe()
	case Wait:
		s.wish()
	case Reply:
		s.reply()
	case SetFree:
		s.wish()
		s.ask(Voiding, Void)
	case GiveBack:
		s.giveBack()
	case RefundSome:
		return s.refund()
	case Refuse:
		return errs.E(errs.FailedPrecondition, "NOT_CAPTURED", "nothing was taken with this payment yet, so nothing can be paid back; it is %s", s.p.State)
	case Take:
		s.note(SeenCommitted)
		s.ask(Capturing, Capture)
	case HoldMoney:
		s.holdMoney()
	case Decline:
		s.decline(s.in.Answer.Reason)
	case KeepMoney:
		s.keepMoney()
	case FailCapture:
		s.failCapture()
	case FreeMoney:
		s.freeMoney()
	case PayBack:
		s.payBack()
	case Doubt:
		s.doubt()
	case AskAgain:
		s.askAgain(&s.p.Rare.Trouble, s.p.request(s.p.Waiting(), nil))
	case SendAgain:
		s.sendAgain()
	default:
		return errs.E(errs.Internal, "", "no rule for %s in %s", s.in.Message, s.p.State)
	}
	return nil
}
