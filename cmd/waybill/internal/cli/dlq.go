package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/internal/topology"
	"github.com/waybill-dev/waybill/platform/errs"
	opsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/ops/v1"
)

func newDLQ() *cobra.Command {
	c := &client{}
	cmd := &cobra.Command{
		Use:   "dlq",
		Short: "See, try again and throw away the messages that services gave up",
		Long: `See, try again and throw away the messages that services gave up. Staff may look,
admins may do something about them; who did what is recorded. Ask a server that runs
the gateway: it reaches all services.`,
		Example: `  waybill dlq list
  waybill dlq get order 0190…
  waybill dlq redrive order --filter 'reason = "UNKNOWN_EVENT"' --reason 'upgraded to 1.2'
  waybill dlq discard order 0190… --reason 'a test of the carrier'`,
		Args: noArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.flags(cmd)
	cmd.AddCommand(c.dlqList(), c.dlqGet(), c.dlqRedrive(), c.dlqDiscard(), c.dlqActions())
	return cmd
}

func (c *client) ops() opsv1.OperationsServiceClient { return opsv1.NewOperationsServiceClient(c.conn) }

// withDatabase lists the services that may have dead letters.
func withDatabase() []string {
	var list []string
	for _, s := range topology.Services() {
		if s.Database {
			list = append(list, s.Name)
		}
	}
	return list
}

func (c *client) dlqList() *cobra.Command {
	var filter, orderBy string
	var limit int
	cmd := &cobra.Command{
		Use: "list [SERVICE...]", Short: "List what was given up, by the services named or by all",
		Example: `  waybill dlq list order payment --filter 'class = "EXHAUSTED"' --order-by first_time`,
		RunE: c.run(func(ctx context.Context, cmd *cobra.Command, services []string) error {
			if len(services) == 0 {
				services = withDatabase()
			}
			all := &opsv1.ListDeadLettersResponse{}
			for _, s := range services {
				found, err := c.letters(ctx, s, filter, orderBy, limit)
				if err != nil {
					return err
				}
				all.DeadLetters = append(all.DeadLetters, found...)
			}
			if c.json {
				return printJSON(cmd.OutOrStdout(), all)
			}
			return printLetters(cmd.OutOrStdout(), all.GetDeadLetters())
		}),
	}
	cmd.Flags().StringVar(&filter, "filter", "", "which, in the filter language of AIP-160: class, type, reason, aggregate_id, event_id, attempts, waiting, first_time, last_time")
	cmd.Flags().StringVar(&orderBy, "order-by", "", "in which order, as in 'first_time' or 'attempts desc'")
	cmd.Flags().IntVar(&limit, "limit", 100, "how many of each service at most")
	return cmd
}

// letters reads up to limit dead letters of a service.
func (c *client) letters(ctx context.Context, service, filter, orderBy string, limit int) ([]*opsv1.DeadLetter, error) {
	var all []*opsv1.DeadLetter
	req := &opsv1.ListDeadLettersRequest{Service: service, PageSize: int32(min(max(limit, 1), 100)), Filter: filter, OrderBy: orderBy}
	for {
		page, err := c.ops().ListDeadLetters(ctx, req)
		if err != nil {
			return nil, err
		}
		all = append(all, page.GetDeadLetters()...)
		req.PageToken = page.GetNextPageToken()
		if req.GetPageToken() == "" || len(all) >= limit {
			return all[:min(len(all), limit)], nil
		}
	}
}

func printLetters(out io.Writer, all []*opsv1.DeadLetter) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(out, "nothing was given up")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SERVICE\tDEAD LETTER\tCLASS\tREASON\tWHAT\tABOUT\tTRIES\tLAST")
	for _, d := range all {
		last := when(d.GetLastTime())
		if d.GetRedriveTime() != nil {
			last += " (will be tried again)"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", d.GetService(), d.GetDeadLetterId(), className(d.GetClass()), d.GetReason(), shortType(d.GetType()),
			d.GetAggregateId(), d.GetAttempts(), last)
	}
	return w.Flush()
}

func className(c opsv1.DeadLetterClass) string {
	return strings.TrimPrefix(c.String(), "DEAD_LETTER_CLASS_")
}

func deedName(d opsv1.DeadLetterDeed) string {
	return strings.TrimPrefix(d.String(), "DEAD_LETTER_DEED_")
}

// shortType leaves the package out, which only says what the name says too.
func shortType(typ string) string { return typ[strings.LastIndexByte(typ, '.')+1:] }

func when(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().Local().Format(time.DateTime)
}

func (c *client) dlqGet() *cobra.Command {
	return &cobra.Command{
		Use: "get SERVICE DEAD_LETTER_ID", Short: "Show one with all there is about it", Args: exactArgs("SERVICE", "DEAD_LETTER_ID"),
		RunE: c.run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			d, err := c.ops().GetDeadLetter(ctx, &opsv1.GetDeadLetterRequest{Service: args[0], DeadLetterId: args[1]})
			if err != nil {
				return err
			}
			if c.json {
				return printJSON(cmd.OutOrStdout(), d)
			}
			return printLetter(cmd.OutOrStdout(), d)
		}),
	}
}

func printLetter(out io.Writer, d *opsv1.DeadLetter) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, line := range [][2]string{
		{"dead letter", d.GetDeadLetterId() + " of " + d.GetService()}, {"class", className(d.GetClass())}, {"reason", d.GetReason()}, {"what", d.GetType()},
		{"about", d.GetAggregateId()}, {"event", d.GetEventId()}, {"cause", d.GetCauseId()}, {"trace", d.GetTraceId()}, {"stream", d.GetStream()},
		{"sequence", fmt.Sprint(d.GetStreamSequence())}, {"subject", d.GetSubject()}, {"tries", fmt.Sprint(d.GetAttempts())},
		{"first", when(d.GetFirstTime())}, {"last", when(d.GetLastTime())}, {"tried again", when(d.GetRedriveTime())},
	} {
		if line[1] != "" && (line[0] != "sequence" || d.GetStream() != "") {
			fmt.Fprintf(w, "%s\t%s\n", line[0], line[1])
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%s\n", d.GetDetail())
	if d.GetPayload() == nil {
		_, err := fmt.Fprintf(out, "\npayload of %d bytes, not shown: nobody can tell what of it is sensitive\n", d.GetPayloadSize())
		return err
	}
	data, err := protojson.MarshalOptions{Multiline: true}.Marshal(d.GetPayload())
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "\n%s\n", data)
	return err
}

func (c *client) dlqRedrive() *cobra.Command {
	var all bool
	var wait time.Duration
	req := &opsv1.RedriveDeadLettersRequest{}
	cmd := &cobra.Command{
		Use: "redrive SERVICE [DEAD_LETTER_ID...]", Short: "Have some tried again: these, those of a filter, or all",
		Long: `Have dead letters tried again, one after the other. What is done is gone; what fails
again stays. However often it is asked, each is done once.`,
		Example: `  waybill dlq redrive order 0190… --reason 'the order was restored'
  waybill dlq redrive payment --filter 'type = "waybill.order.v1.OrderPlaced"' --rate 5
  waybill dlq redrive shipping --all`,
		RunE: c.run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return &usageError{errors.New("which service?")}
			}
			req.Service, req.DeadLetterIds = args[0], args[1:]
			if all {
				if req.GetFilter() != "" {
					return &usageError{errors.New("--all and --filter exclude each other")}
				}
				req.Filter = "attempts > 0"
			}
			if req.GetRequestId() == "" {
				req.RequestId = uuid.NewString()
			}
			return c.redrive(ctx, cmd.OutOrStdout(), req, wait)
		}),
	}
	fs := cmd.Flags()
	fs.StringVar(&req.Filter, "filter", "", "which, as in dlq list")
	fs.BoolVar(&all, "all", false, "all of them")
	fs.Int32Var(&req.Limit, "limit", 100, "how many at most, the oldest first")
	fs.Int32Var(&req.Rate, "rate", 20, "how many per second")
	fs.StringVar(&req.Reason, "reason", "", "why; it is recorded")
	fs.StringVar(&req.RequestId, "request-id", "", "makes repeating safe; default: a new UUID")
	fs.DurationVar(&wait, "wait", 10*time.Second, "how long to wait for the outcome beyond what --rate takes; 0 does not")
	return cmd
}

// outcome is what came of a redrive.
type outcome struct {
	Scheduled int32                     `json:"scheduled"`
	More      bool                      `json:"more"`
	Redriven  int                       `json:"redriven"`
	Failed    int                       `json:"failed"`
	Waiting   int                       `json:"waiting"`
	failures  []*opsv1.DeadLetterAction // for people
}

// redriven has dead letters tried again and waits for what comes of it.
func (c *client) redriven(ctx context.Context, req *opsv1.RedriveDeadLettersRequest, wait time.Duration) (outcome, error) {
	resp, err := c.ops().RedriveDeadLetters(ctx, req)
	if err != nil {
		return outcome{}, err
	}
	o := outcome{Scheduled: resp.GetScheduled(), More: resp.GetMore(), Waiting: int(resp.GetScheduled())}
	if wait > 0 && resp.GetScheduled() > 0 {
		err = c.await(ctx, req.GetService(), resp, wait, &o)
	}
	return o, err
}

func (c *client) redrive(ctx context.Context, out io.Writer, req *opsv1.RedriveDeadLettersRequest, wait time.Duration) error {
	o, err := c.redriven(ctx, req, wait)
	if err != nil {
		return err
	}
	if c.json {
		err = printAny(out, o)
	} else {
		fmt.Fprintf(out, "%d to be tried again: %d done, %d failed again, %d still waiting\n", o.Scheduled, o.Redriven, o.Failed, o.Waiting)
		for _, a := range o.failures {
			fmt.Fprintf(out, "  %s  %s\n", a.GetDeadLetterId(), a.GetOutcome())
		}
		if o.More {
			fmt.Fprintln(out, "there are more: ask again")
		}
	}
	if err == nil && o.Failed > 0 {
		err = errs.E(errs.FailedPrecondition, "REDRIVE_FAILED", "%d failed again", o.Failed)
	}
	return err
}

// await reads what came of the dead letters that will be tried again, until all
// have been or it took too long.
func (c *client) await(ctx context.Context, service string, resp *opsv1.RedriveDeadLettersResponse, wait time.Duration, o *outcome) error {
	since := resp.GetFirstRedriveTime().AsTime()
	limit := time.Now().Add(wait + max(0, resp.GetLastRedriveTime().AsTime().Sub(since)))
	for {
		o.Redriven, o.Failed, o.failures = 0, 0, nil
		filter := fmt.Sprintf(`create_time >= "%s" AND (deed = "REDRIVEN" OR deed = "REDRIVE_FAILED")`, since.Format(time.RFC3339Nano))
		req := &opsv1.ListDeadLetterActionsRequest{Service: service, PageSize: 100, Filter: filter}
		for more := true; more; more = req.GetPageToken() != "" {
			page, err := c.ops().ListDeadLetterActions(ctx, req)
			if err != nil {
				return err
			}
			for _, a := range page.GetActions() {
				if !slices.Contains(resp.GetDeadLetterIds(), a.GetDeadLetterId()) {
					continue
				}
				if a.GetDeed() == opsv1.DeadLetterDeed_DEAD_LETTER_DEED_REDRIVEN {
					o.Redriven++
				} else {
					o.Failed++
					o.failures = append(o.failures, a)
				}
			}
			req.PageToken = page.GetNextPageToken()
		}
		if o.Waiting = max(0, int(o.Scheduled)-o.Redriven-o.Failed); o.Waiting == 0 || time.Now().After(limit) {
			return nil
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *client) dlqDiscard() *cobra.Command {
	req := &opsv1.DiscardDeadLetterRequest{}
	cmd := &cobra.Command{
		Use: "discard SERVICE DEAD_LETTER_ID", Short: "Throw one away: what it says is never done", Args: exactArgs("SERVICE", "DEAD_LETTER_ID"),
		RunE: c.run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			if req.GetReason() == "" {
				return &usageError{errors.New("--reason is required: it is recorded")}
			}
			req.Service, req.DeadLetterId = args[0], args[1]
			if req.GetRequestId() == "" {
				req.RequestId = uuid.NewString()
			}
			a, err := c.ops().DiscardDeadLetter(ctx, req)
			if err != nil {
				return err
			}
			if c.json {
				return printJSON(cmd.OutOrStdout(), a)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "thrown away: %s about %s\n", a.GetType(), a.GetAggregateId())
			return err
		}),
	}
	cmd.Flags().StringVar(&req.Reason, "reason", "", "why; it is recorded")
	cmd.Flags().StringVar(&req.RequestId, "request-id", "", "makes repeating safe; default: a new UUID")
	return cmd
}

func (c *client) dlqActions() *cobra.Command {
	var filter string
	var limit int
	cmd := &cobra.Command{
		Use: "actions SERVICE", Short: "Show who did what about them, and why", Args: exactArgs("SERVICE"),
		RunE: c.run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			all := &opsv1.ListDeadLetterActionsResponse{}
			req := &opsv1.ListDeadLetterActionsRequest{Service: args[0], PageSize: int32(min(max(limit, 1), 100)), Filter: filter}
			for {
				page, err := c.ops().ListDeadLetterActions(ctx, req)
				if err != nil {
					return err
				}
				all.Actions = append(all.Actions, page.GetActions()...)
				req.PageToken = page.GetNextPageToken()
				if req.GetPageToken() == "" || len(all.GetActions()) >= limit {
					break
				}
			}
			all.Actions = all.GetActions()[:min(limit, len(all.GetActions()))]
			if c.json {
				return printJSON(cmd.OutOrStdout(), all)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "TIME\tDEED\tDEAD LETTER\tWHAT\tBY\tWHY\tOUTCOME")
			for _, a := range all.GetActions() {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", when(a.GetCreateTime()), deedName(a.GetDeed()), a.GetDeadLetterId(), shortType(a.GetType()), a.GetUserId(),
					a.GetReason(), a.GetOutcome())
			}
			return w.Flush()
		}),
	}
	cmd.Flags().StringVar(&filter, "filter", "", "which: dead_letter_id, deed, user_id, type, aggregate_id, event_id, create_time")
	cmd.Flags().IntVar(&limit, "limit", 50, "how many at most")
	return cmd
}
