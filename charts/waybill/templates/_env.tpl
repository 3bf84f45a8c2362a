{{/* The environment of a workload, the same for its init containers. Call with (list $ workload). */}}
{{- define "waybill.env" -}}
{{- $ := index . 0 -}}{{- $w := index . 1 -}}
{{- $v := $.Values -}}
- {name: WAYBILL_SERVICES, value: {{ join "," $w.services | quote }}}
{{- with $w.remote }}
{{- $targets := list }}
{{- range . }}{{ $targets = append $targets (printf "%s=dns:///%s:9090" . (include "waybill.host" (list $ .))) }}{{ end }}
- {name: WAYBILL_UPSTREAM, value: {{ join "," $targets | quote }}}
{{- end }}
{{- if $w.gateway }}
- {name: WAYBILL_HTTP_ADDR, value: ":8080"}
- {name: WAYBILL_PUBLIC_GRPC_ADDR, value: ":8081"}
{{- end }}
- {name: WAYBILL_GRPC_ADDR, value: ":9090"}
- {name: WAYBILL_ADMIN_ADDR, value: ":9091"}
{{- if ne $v.tls.mode "none" }}
{{- $peers := list }}
{{- range $name, $peer := $v._.workloads }}{{ $peers = append $peers (printf "%s=%s" $peer.account (join "+" $peer.services)) }}{{ end }}
- {name: WAYBILL_TLS_DIR, value: /etc/waybill/tls}
- {name: WAYBILL_TLS_PEERS, value: {{ join "," $peers | quote }}}
{{- end }}
- {name: WAYBILL_DRAIN_DELAY, value: "{{ $w.lifecycle.drainSeconds }}s"}
- {name: WAYBILL_STOP_TIMEOUT, value: "{{ $w.lifecycle.stopSeconds }}s"}
{{- if $w.keeps }}
- {name: WAYBILL_DATA, value: /data}
{{- end }}
{{- if and $w.database (not $v.sqlite.enabled) }}
{{- $urls := list }}
{{- range $w.services }}
{{- if (get $v._.topology .).database }}
{{- $ref := dict "name" (printf "%s-databases" $.Release.Name) "key" . }}
{{- if not $v.postgres.enabled }}
{{- $ref = get $v.postgres.external.secrets . | default (dict "name" $v.postgres.external.secretName "key" .) }}
{{- end }}
{{- $urls = append $urls (printf "%s=$(DB_%s)" . (upper .)) }}
- name: DB_{{ upper . }}
  valueFrom: {secretKeyRef: {{ $ref | toJson }}}
{{- end }}
{{- end }}
- {name: WAYBILL_DB, value: {{ join "," $urls | quote }}}
{{- end }}
{{- if $w.bus }}
{{- if $v.nats.enabled }}
- {name: WAYBILL_NATS, value: "nats://{{ include "waybill.host" (list $ "nats") }}:4222"}
- {name: WAYBILL_NATS_USER, value: {{ $w.name | quote }}}
- name: WAYBILL_NATS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ $.Release.Name }}-nats, key: {{ $w.name | quote }}}}
{{- else if $v.nats.external.url }}
- {name: WAYBILL_NATS, value: {{ $v.nats.external.url | quote }}}
- {name: WAYBILL_NATS_REPLICAS, value: {{ $v.nats.external.replicas | quote }}}
{{- if $v.nats.external.secretName }}
- {name: WAYBILL_NATS_USER, value: {{ $w.name | quote }}}
- name: WAYBILL_NATS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ $v.nats.external.secretName }}, key: {{ $w.name | quote }}}}
{{- else if $v.nats.external.credentialsSecretName }}
- {name: WAYBILL_NATS_CREDENTIALS, value: /etc/waybill/nats/user.creds}
{{- end }}
{{- if $v.nats.external.caSecretName }}
- {name: WAYBILL_NATS_CA_FILE, value: /etc/waybill/nats-ca/ca.crt}
{{- end }}
{{- end }}
{{- end }}
{{- if has "auth" $w.services }}
{{- $secret := $v.secrets.existingSecret | default (printf "%s-secrets" $.Release.Name) }}
- name: WAYBILL_AUTH_KEY_SECRET
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: auth-key-secret}}
{{- if $v.admin.email }}
- {name: WAYBILL_ADMIN_EMAIL, value: {{ $v.admin.email | quote }}}
- name: WAYBILL_ADMIN_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: admin-password}}
{{- end }}
{{- end }}
{{- if has "payment" $w.services }}
{{- $secret := $v.secrets.existingSecret | default (printf "%s-secrets" $.Release.Name) }}
- name: WAYBILL_PAYMENT_WEBHOOK_SECRET
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: payment-webhook-secret, optional: true}}
- name: WAYBILL_PAYMENT_WEBHOOK_SECRET_PREVIOUS
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: payment-webhook-secret-previous, optional: true}}
{{- end }}
{{- with $v.tracing }}
{{- if .endpoint }}
- {name: WAYBILL_TRACE_ENDPOINT, value: {{ .endpoint | quote }}}
- {name: WAYBILL_TRACE_INSECURE, value: {{ .insecure | quote }}}
{{- end }}
- {name: WAYBILL_TRACE_RATIO, value: {{ .ratio | quote }}}
{{- end }}
{{- with dig "limits" "memory" "" $w.resources }}
- {name: GOMEMLIMIT, value: {{ include "waybill.most" . | quote }}}
{{- end }}
{{- range $name, $value := include "waybill.flatten" (list "WAYBILL" $w.config) | fromYaml }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- with $w.env }}
{{ toYaml . }}
{{- end }}
{{- end }}
