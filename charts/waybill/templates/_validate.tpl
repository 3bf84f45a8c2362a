{{/* Refuses what the schema of the values cannot say. */}}
{{- define "waybill.validate" -}}
{{- $v := .Values -}}
{{- $workloads := $v._.workloads -}}
{{- /* databases */ -}}
{{- $external := or $v.postgres.external.secretName $v.postgres.external.secrets -}}
{{- $ways := list -}}
{{- if $v.postgres.enabled }}{{ $ways = append $ways "postgres.enabled" }}{{ end -}}
{{- if $external }}{{ $ways = append $ways "postgres.external" }}{{ end -}}
{{- if $v.sqlite.enabled }}{{ $ways = append $ways "sqlite.enabled" }}{{ end -}}
{{- if not $ways -}}
  {{- fail "there is no database: set postgres.enabled (for trials), postgres.external.secretName, or sqlite.enabled" -}}
{{- else if gt (len $ways) 1 -}}
  {{- fail (printf "%s are set, but there is one kind of database: switch the others off" (join " and " $ways)) -}}
{{- end -}}
{{- if and $external (not $v.postgres.external.secretName) -}}
  {{- range $service, $s := $v._.topology -}}
    {{- if and $s.database (not (hasKey $v.postgres.external.secrets $service)) -}}
      {{- fail (printf "postgres.external.secrets does not say where the database of %s is: add it, or set postgres.external.secretName" $service) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- range $service, $_ := $v.postgres.external.secrets -}}
  {{- if not (hasKey $v._.topology $service) }}{{ fail (printf "postgres.external.secrets: there is no service %q" $service) }}{{ end -}}
{{- end -}}
{{- /* broker */ -}}
{{- $ways = list -}}
{{- if $v.nats.enabled }}{{ $ways = append $ways "nats.enabled" }}{{ end -}}
{{- if $v.nats.external.url }}{{ $ways = append $ways "nats.external.url" }}{{ end -}}
{{- if $v.nats.embedded }}{{ $ways = append $ways "nats.embedded" }}{{ end -}}
{{- if not $ways -}}
  {{- fail "there is no broker: set nats.enabled (for trials), nats.external.url, or, where one workload runs everything, nats.embedded" -}}
{{- else if gt (len $ways) 1 -}}
  {{- fail (printf "%s are set, but there is one broker: switch the others off" (join " and " $ways)) -}}
{{- end -}}
{{- if and $v.nats.embedded (gt (len $workloads) 1) -}}
  {{- fail (printf "nats.embedded is for one workload that runs everything, but there are %d: the others could not hear its events. Set nats.enabled or nats.external.url" (len $workloads)) -}}
{{- end -}}
{{- if and $v.nats.external.secretName $v.nats.external.credentialsSecretName -}}
  {{- fail "nats.external: set secretName (passwords) or credentialsSecretName (credentials files), not both" -}}
{{- end -}}
{{- if and $v.nats.enabled (lt (include "waybill.most" $v.nats.storage.size | int64) 6442450944) -}}
  {{- fail (printf "nats.storage.size is %s, but six streams of up to 1 GiB each need 7Gi at least" $v.nats.storage.size) -}}
{{- end -}}
{{- /* workloads */ -}}
{{- range $name, $w := $workloads -}}
  {{- if has $name (list "nats" "postgres" "test" "metrics" "secrets" "databases" "ca") -}}
    {{- fail (printf "a workload cannot be named %s: the chart uses the name itself" $name) -}}
  {{- end -}}
  {{- if gt (len $w.account) 52 -}}
    {{- fail (printf "the name %s is longer than the 52 characters that names of pods leave: shorten the release's or the workload's" $w.account) -}}
  {{- end -}}
  {{- $more := printf "has %d replicas" (int $w.replicas) -}}
  {{- if $w.autoscaling.enabled }}{{ $more = "scales" }}{{ end -}}
  {{- if and $w.keeps (or $w.autoscaling.enabled (gt (int $w.replicas) 1)) -}}
    {{- fail (printf "the workload %s %s, but it keeps its data itself (%s), and one process alone may use a directory: set replicas to 1, or use Postgres and NATS" $name $more (ternary "sqlite.enabled" "nats.embedded" $v.sqlite.enabled)) -}}
  {{- end -}}
  {{- if and $w.autoscaling.enabled (gt (int $w.autoscaling.minReplicas) (int $w.autoscaling.maxReplicas)) -}}
    {{- fail (printf "workloads.%s.autoscaling: minReplicas is %d and maxReplicas %d" $name (int $w.autoscaling.minReplicas) (int $w.autoscaling.maxReplicas)) -}}
  {{- end -}}
  {{- if and $w.autoscaling.enabled (eq $w.autoscaling.kind "keda") -}}
    {{- if not $w.bus }}{{ fail (printf "workloads.%s.autoscaling.kind is keda, but it runs nothing that hears events: use hpa" $name) }}{{ end -}}
    {{- if and $v.nats.external.url (not $v.nats.external.monitoring) -}}
      {{- fail (printf "workloads.%s.autoscaling.kind is keda, which asks the broker's monitoring: set nats.external.monitoring" $name) -}}
    {{- end -}}
  {{- end -}}
  {{- if and $w.autoscaling.enabled (eq $w.autoscaling.kind "hpa") (not (dig "requests" "cpu" "" $w.resources)) -}}
    {{- fail (printf "workloads.%s.autoscaling counts in percent of resources.requests.cpu, which is not set" $name) -}}
  {{- end -}}
  {{- $l := $w.lifecycle -}}
  {{- $least := add $l.preStopSleepSeconds $l.drainSeconds $l.stopSeconds 5 -}}
  {{- if and (not (kindIs "invalid" $l.terminationGracePeriodSeconds)) (lt (int $l.terminationGracePeriodSeconds) (int $least)) -}}
    {{- fail (printf "workloads.%s.lifecycle.terminationGracePeriodSeconds is %d, so that Kubernetes would kill what is under way: it needs %d (preStopSleepSeconds + drainSeconds + stopSeconds + 5)" $name (int $l.terminationGracePeriodSeconds) (int $least)) -}}
  {{- end -}}
  {{- $settings := include "waybill.flatten" (list "WAYBILL" $w.config) | fromYaml -}}
  {{- range $key := list "SERVICES" "UPSTREAM" "DATA" "DB" "NATS" "NATS_USER" "NATS_PASSWORD" "NATS_CREDENTIALS" "NATS_REPLICAS" "NATS_CA_FILE" "HTTP_ADDR" "GRPC_ADDR" "PUBLIC_GRPC_ADDR" "ADMIN_ADDR" "DRAIN_DELAY" "STOP_TIMEOUT" "MIGRATE" "TLS_DIR" "TLS_PEERS" "TRACE_ENDPOINT" "TRACE_INSECURE" "TRACE_RATIO" "ADMIN_EMAIL" -}}
    {{- if hasKey $settings (printf "WAYBILL_%s" $key) -}}
      {{- fail (printf "workloads.%s.config sets %s, which the chart sets itself from its own values" $name (lower $key)) -}}
    {{- end -}}
  {{- end -}}
  {{- range $key := list "AUTH_KEY_SECRET" "ADMIN_PASSWORD" "PAYMENT_WEBHOOK_SECRET" "PAYMENT_WEBHOOK_SECRET_PREVIOUS" -}}
    {{- if hasKey $settings (printf "WAYBILL_%s" $key) -}}
      {{- fail (printf "workloads.%s.config sets %s, which is a secret: put it into the Secret that secrets.existingSecret names" $name (lower $key)) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- /* identity */ -}}
{{- if and (eq $v.tls.mode "certManager") (not $v.tls.certManager.issuerRef.name) -}}
  {{- fail "tls.mode is certManager: say who signs in tls.certManager.issuerRef.name" -}}
{{- end -}}
{{- if and (eq $v.tls.mode "trial") $v.secrets.seed (not $v.tls.trial.existingSecret) -}}
  {{- fail "secrets.seed is for tools that render without looking into the cluster, but an authority does not follow from a seed: make one with `waybill certs --ca-dir ca`, put ca.crt and ca.key into a Secret and name it in tls.trial.existingSecret, or choose another tls.mode" -}}
{{- end -}}
{{- range $name, $_ := $v.tls.secrets -}}
  {{- if not (hasKey $workloads $name) }}{{ fail (printf "tls.secrets names the workload %s, which is not there" $name) }}{{ end -}}
{{- end -}}
{{- /* who may come in */ -}}
{{- if $v.networkPolicy.enabled -}}
  {{- if and (or $v.ingress.enabled $v.gatewayAPI.enabled (ne $v.service.type "ClusterIP")) (not $v.networkPolicy.clients) -}}
    {{- fail "the gateway is open to the outside, but networkPolicy.clients lets nobody in: name the ingress controller's namespace or the addresses of clients" -}}
  {{- end -}}
  {{- if and (or $v.metrics.podMonitor.enabled $v.metrics.serviceMonitor.enabled) (not $v.networkPolicy.prometheus) -}}
    {{- fail "metrics are to be read, but networkPolicy.prometheus lets nobody: name Prometheus's namespace" -}}
  {{- end -}}
  {{- if and $external (not $v.networkPolicy.postgres) -}}
    {{- fail "postgres.external is set, but networkPolicy.postgres does not say where it is: name its pods or addresses, as in [{ipBlock: {cidr: 10.1.2.3/32}}]" -}}
  {{- end -}}
  {{- if and $v.nats.external.url (not $v.networkPolicy.nats) -}}
    {{- fail "nats.external is set, but networkPolicy.nats does not say where it is: name its pods or addresses, as in [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: nats}}}]" -}}
  {{- end -}}
{{- end -}}
{{- if and $v.metrics.podMonitor.enabled $v.metrics.serviceMonitor.enabled -}}
  {{- fail "metrics.podMonitor and metrics.serviceMonitor would read everything twice: enable one" -}}
{{- end -}}
{{- if and $v.gatewayAPI.enabled (not $v.gatewayAPI.parentRefs) -}}
  {{- fail "gatewayAPI.enabled: name the Gateway in gatewayAPI.parentRefs" -}}
{{- end -}}
{{- end }}

{{/* Nested settings as environment: (list prefix map) gives YAML, WAYBILL_LOG_LEVEL: "debug". */}}
{{- define "waybill.flatten" -}}
{{- $prefix := index . 0 -}}
{{- range $key, $value := index . 1 -}}
{{- $name := printf "%s_%s" $prefix (upper $key) -}}
{{- if kindIs "map" $value -}}
{{ include "waybill.flatten" (list $name $value) }}
{{- else if kindIs "slice" $value }}
{{ $name }}: {{ join "," $value | quote }}
{{- else if kindIs "float64" $value }}
{{ $name }}: {{ $value | toJson | quote }}
{{- else if not (kindIs "invalid" $value) }}
{{ $name }}: {{ toString $value | quote }}
{{- end -}}
{{- end -}}
{{- end }}
