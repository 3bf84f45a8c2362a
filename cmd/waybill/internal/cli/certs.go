package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-dev/waybill/platform/mtls"
)

// certs is what the command was asked for.
type certs struct {
	caDir, out string
	noCreate   bool
	id         mtls.ID
	ttl, caTTL time.Duration
	every      time.Duration
}

func newCerts() *cobra.Command {
	var c certs
	cmd := &cobra.Command{
		Use:   "certs",
		Short: "Make certificates for trials",
		Long: `Make the certificate with which a process proves to others which service it is
(--tls-dir of serve): tls.crt, tls.key and ca.crt in --out, for the account
spiffe://<trust domain>/ns/<namespace>/sa/<account>.

The authority that signs it is read from --ca-dir: ca.crt and ca.key, or tls.crt
and tls.key as a Secret of Kubernetes holds them. It is made there if there is none.

Whoever can read the key of the authority can be any service. This is for trials;
in production let cert-manager, or another program made for it, do this.`,
		Example: `  waybill certs --ca-dir ca --out tls/order --account order
  waybill serve --services order --tls-dir tls/order`,
		Args: noArgs,
	}
	f := cmd.Flags()
	f.StringVar(&c.caDir, "ca-dir", "", "directory of the authority (required)")
	f.StringVar(&c.out, "out", "", "directory for the certificate; without it only the authority is made")
	f.BoolVar(&c.noCreate, "no-create", false, "fail if there is no authority instead of making one")
	f.StringVar(&c.id.Account, "account", "", "service account that the certificate is for (required with --out)")
	f.StringVar(&c.id.Namespace, "namespace", "default", "namespace of the account")
	f.StringVar(&c.id.TrustDomain, "trust-domain", "cluster.local", "trust domain of the system")
	f.DurationVar(&c.ttl, "ttl", 90*24*time.Hour, "how long the certificate is good, never longer than its authority")
	f.DurationVar(&c.caTTL, "ca-ttl", 10*365*24*time.Hour, "how long an authority that is made is good")
	f.DurationVar(&c.every, "every", 0, "go on and make a new certificate this often; 0 makes one and exits")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := c.check(); err != nil {
			return &usageError{err}
		}
		return c.run(cmd.Context(), func(format string, a ...any) { fmt.Fprintf(cmd.OutOrStdout(), format+"\n", a...) })
	}
	return cmd
}

func (c *certs) check() error {
	switch {
	case c.caDir == "":
		return errors.New("--ca-dir is missing: the directory of the authority")
	case c.ttl <= 0 || c.caTTL <= 0:
		return errors.New("--ttl and --ca-ttl must be more than nothing")
	case c.every < 0:
		return errors.New("--every must not be negative")
	case c.every >= c.ttl:
		return fmt.Errorf("--every %s would be too late for certificates that are good for %s", c.every, c.ttl)
	case c.out == "" && (c.id.Account != "" || c.every > 0):
		return errors.New("--out is missing: the directory for the certificate")
	case c.out != "":
		return c.id.Validate()
	}
	return nil
}

func (c *certs) run(ctx context.Context, say func(format string, a ...any)) error {
	made, err := c.issue(say)
	if err != nil || c.every == 0 {
		return err
	}
	tick := time.NewTicker(c.every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			next, err := c.issue(say)
			switch {
			case err == nil:
				made = next
			case time.Now().After(made):
				return fmt.Errorf("the last certificate ended at %s and no new one can be made: %w", made.Format(time.RFC3339), err)
			default: // the one that is there still serves
				say("no new certificate, trying again in %s: %v", c.every, err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// issue makes one certificate and tells when it ends. The authority is read anew
// each time: it may have been replaced.
func (c *certs) issue(say func(format string, a ...any)) (time.Time, error) {
	now := time.Now()
	authority, err := mtls.LoadAuthority(c.caDir)
	if errors.Is(err, fs.ErrNotExist) && !c.noCreate {
		if authority, err = mtls.NewAuthority("Waybill trial authority", c.caTTL, now); err == nil {
			if err = authority.Save(c.caDir); err == nil {
				say("%s: a new authority, good until %s", c.caDir, authority.NotAfter().Format(time.RFC3339))
			}
		}
	}
	if err != nil || c.out == "" {
		return time.Time{}, err
	}
	pair, err := authority.Issue(c.id, c.ttl, now)
	if err != nil {
		return time.Time{}, err
	}
	if err := pair.Write(c.out, authority); err != nil {
		return time.Time{}, err
	}
	say("%s: %s, good until %s", c.out, c.id, pair.NotAfter.Format(time.RFC3339))
	return pair.NotAfter, nil
}
