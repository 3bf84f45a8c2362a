package chart

import (
	"strings"
	"testing"
)

func TestValuesThatCannotBeMeantAreRefusedWithAReason(t *testing.T) {
	t.Parallel()
	mono := splits["mono"]
	three := splits["three"]
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"a value that does not exist":           {[]string{"--set", "replicaCount=2"}, "additional properties 'replicaCount' not allowed"},
		"one of a workload":                     {[]string{"--set", "workloads.order.replica=2"}, "additional properties 'replica' not allowed"},
		"a word for a number":                   {[]string{"--set", "workloads.order.replicas=two"}, "got string, want integer"},
		"less than no pods":                     {[]string{"--set", "workloads.order.replicas=-1"}, "minimum: got -1, want 0"},
		"a mode of identity":                    {[]string{"--set", "tls.mode=mtls"}, "value must be one of 'trial', 'certManager', 'secret', 'none'"},
		"a size without unit":                   {[]string{"--set", "nats.storage.size=8"}, "/nats/storage/size"},
		"a name no pod can have":                {[]string{"--set", "workloads.Order.replicas=1"}, "'Order' does not match pattern"},
		"a variable of ours past the settings":  {[]string{"--set", "workloads.order.env[0].name=WAYBILL_SERVICES"}, "'not' failed"},
		"no service of the name":                {[]string{"--set", "workloads.orders.replicas=1"}, `workloads.orders: there is no service "orders"; there are auth, gateway, inventory, order, payment, shipping, user`},
		"a service in two workloads":            {append([]string{"--set", "workloads.more.services={order}"}, three...), "the service order runs in two workloads, more and sales"},
		"a service in none":                     {[]string{"--set", "workloads.order.services={payment}"}, "no workload runs the service order"},
		"no gateway":                            {[]string{"--set", "workloads.gateway.services={order}"}, "no workload runs the service gateway"},
		"a name of the chart's own":             {[]string{"--set", "workloads.nats.services={order}"}, "a workload cannot be named nats"},
		"a name too long":                       {[]string{"--set", "workloads.a-name-of-forty-characters-minus-a-few.services={order}", "--name-template", "a-release-of-twenty-five"}, "longer than the 52 characters"},
		"SQLite twice":                          {append([]string{"--set", "workloads.all.replicas=2"}, mono...), "the workload all has 2 replicas, but it keeps its data itself (sqlite.enabled)"},
		"SQLite that scales":                    {append([]string{"--set", "workloads.all.autoscaling.enabled=true"}, mono...), "the workload all scales, but it keeps its data itself"},
		"an embedded broker twice":              {append([]string{"--set", "workloads.all.replicas=2", "--set", "sqlite.enabled=false", "--set", "postgres.enabled=true"}, mono...), "keeps its data itself (nats.embedded)"},
		"an embedded broker for many":           {[]string{"--set", "nats.enabled=false", "--set", "nats.embedded=true"}, "nats.embedded is for one workload that runs everything, but there are 7"},
		"no broker":                             {[]string{"--set", "nats.enabled=false"}, "there is no broker: set nats.enabled"},
		"two brokers":                           {[]string{"--set", "nats.external.url=nats://a:4222"}, "nats.enabled and nats.external.url are set, but there is one broker"},
		"no database":                           {[]string{"--set", "postgres.enabled=false"}, "there is no database: set postgres.enabled"},
		"two databases":                         {[]string{"--set", "sqlite.enabled=true"}, "postgres.enabled and sqlite.enabled are set"},
		"a database of some services":           {[]string{"--set", "postgres.enabled=false", "--set", "postgres.external.secrets.order.name=a", "--set", "postgres.external.secrets.order.key=b"}, "does not say where the database of auth is"},
		"a database of nobody":                  {[]string{"--set", "postgres.enabled=false", "--set", "postgres.external.secretName=x", "--set", "postgres.external.secrets.orders.name=a", "--set", "postgres.external.secrets.orders.key=b"}, `postgres.external.secrets: there is no service "orders"`},
		"a database behind a closed door":       {[]string{"--set", "postgres.enabled=false", "--set", "postgres.external.secretName=x"}, "networkPolicy.postgres does not say where it is"},
		"a broker behind a closed door":         {[]string{"--set", "nats.enabled=false", "--set", "nats.external.url=nats://a:4222"}, "networkPolicy.nats does not say where it is"},
		"a broker that speaks another protocol": {[]string{"--set", "nats.enabled=false", "--set", "nats.external.url=http://a:4222"}, "/nats/external/url"},
		"passwords and credentials":             {[]string{"--set", "nats.enabled=false", "--set", "nats.external.url=nats://a:4222", "--set", "nats.external.secretName=a", "--set", "nats.external.credentialsSecretName=b"}, "not both"},
		"streams larger than their volume":      {[]string{"--set", "nats.storage.size=5Gi"}, "need 7Gi at least"},
		"fewer most than least":                 {[]string{"--set", "workloads.order.autoscaling.enabled=true", "--set", "workloads.order.autoscaling.minReplicas=9"}, "minReplicas is 9 and maxReplicas 6"},
		"percent of nothing":                    {[]string{"--set", "workloads.order.autoscaling.enabled=true", "--set-json", `workloadDefaults.resources.requests={"cpu":null}`}, "counts in percent of resources.requests.cpu, which is not set"},
		"events that nobody hears":              {[]string{"--set", "workloads.gateway.autoscaling.enabled=true", "--set", "workloads.gateway.autoscaling.kind=keda"}, "runs nothing that hears events: use hpa"},
		"a death in the middle":                 {[]string{"--set", "workloads.order.lifecycle.terminationGracePeriodSeconds=10"}, "it needs 32 (preStopSleepSeconds + drainSeconds + stopSeconds + 5)"},
		"a setting of the chart's own":          {[]string{"--set", "workloads.order.config.services={all}"}, "workloads.order.config sets services, which the chart sets itself"},
		"a nested one":                          {[]string{"--set", "workloadDefaults.config.trace.endpoint=a:1"}, "sets trace_endpoint, which the chart sets itself"},
		"a secret in the open":                  {[]string{"--set", "workloads.payment.config.payment.webhook_secret=x"}, "sets payment_webhook_secret, which is a secret"},
		"cert-manager without a signer":         {[]string{"--set", "tls.mode=certManager"}, "say who signs in tls.certManager.issuerRef.name"},
		"a certificate of nobody":               {[]string{"--set", "tls.mode=secret", "--set", "tls.secrets.orders=x"}, "tls.secrets names the workload orders, which is not there"},
		"an authority from a seed":              {[]string{"--set", "secrets.seed=x"}, "an authority does not follow from a seed"},
		"an ingress to a closed door":           {[]string{"--set", "ingress.enabled=true"}, "networkPolicy.clients lets nobody in"},
		"a balancer to a closed door":           {[]string{"--set", "service.type=LoadBalancer"}, "networkPolicy.clients lets nobody in"},
		"a scrape at a closed door":             {[]string{"--set", "metrics.podMonitor.enabled=true"}, "networkPolicy.prometheus lets nobody"},
		"routes without a gateway":              {[]string{"--set", "gatewayAPI.enabled=true", "--set", "networkPolicy.enabled=false"}, "name the Gateway in gatewayAPI.parentRefs"},
		"two monitors":                          {[]string{"--set", "metrics.podMonitor.enabled=true", "--set", "metrics.serviceMonitor.enabled=true", "--set", "networkPolicy.enabled=false"}, "would read everything twice"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"template", chartDir}, c.args...)
			switch _, err := helm(t, nil, args...); {
			case err == nil:
				t.Errorf("%v is accepted, want: %s", c.args, c.want)
			case !strings.Contains(err.Error(), c.want):
				t.Errorf("%v, want: %s", err, c.want)
			}
		})
	}
}
