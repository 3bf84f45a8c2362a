package orderd

import (
	"time"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/services/order"
	"github.com/waybill-dev/waybill/services/order/internal/rpc"
	"github.com/waybill-dev/waybill/services/order/internal/saga"
)

// Config is what can be chosen about the order service. Start from DefaultConfig.
type Config struct {
	SweepEvery time.Duration `help:"how often orders are looked through for deadlines that have passed"`
	Recheck    time.Duration `help:"how often a watched order that is quiet is looked up in the database"`
	MaxWatched int           `help:"orders that one stream of WatchOrders follows at most"`
	Deadline   DeadlineConfig
}

// DeadlineConfig says how long an order may stay in a status.
type DeadlineConfig struct {
	Placed     time.Duration `help:"longest wait for stock; the order is undone after it"`
	Held       time.Duration `help:"longest wait for the authorization; the order is undone after it"`
	Authorized time.Duration `help:"longest wait for the stock to be committed; the order is undone after it"`
	Committed  time.Duration `help:"longest wait for the capture; the order is undone after it"`
	Captured   time.Duration `help:"longest wait for a carrier; the order is undone after it"`
	Cancelling time.Duration `help:"wait before an undoing is asked for again; doubled each time, six times"`
	Returning  time.Duration `help:"wait before a return is asked for again; doubled each time, six times"`
}

// DefaultConfig gives the configuration that fits most systems.
func DefaultConfig() Config {
	return Config{
		SweepEvery: saga.DefaultSweepEvery,
		Recheck:    rpc.DefaultRecheck,
		MaxWatched: rpc.DefaultMaxWatched,
		Deadline:   DeadlineConfig(order.DefaultDeadlines()),
	}
}

// Validate fails unless every value is positive.
func (c Config) Validate() error {
	if c.SweepEvery <= 0 || c.Recheck <= 0 || c.MaxWatched <= 0 {
		return errs.E(errs.Invalid, "NOT_POSITIVE", "sweep_every, recheck and max_watched must be positive")
	}
	return order.Deadlines(c.Deadline).Validate()
}
