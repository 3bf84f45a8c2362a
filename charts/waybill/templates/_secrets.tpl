{{/*
The secrets the chart makes, in .Values._.made: by chance the first time, as the cluster has them ever after. With secrets.seed they
follow from the seed instead.
*/}}
{{- define "waybill.generate" -}}
{{- $made := dict -}}
{{- if not .Values.secrets.existingSecret -}}
  {{- $_ := set $made "secrets" (dict "auth-key-secret" "" "admin-password" "" "payment-webhook-secret" "") -}}
{{- end -}}
{{- if .Values.postgres.enabled -}}
  {{- $keys := dict "superuser" "" -}}
  {{- range $service, $s := .Values._.topology }}{{ if $s.database }}{{ $_ := set $keys $service "" }}{{ end }}{{ end -}}
  {{- $_ := set $made "postgres" $keys -}}
{{- end -}}
{{- if .Values.nats.enabled -}}
  {{- $keys := dict -}}
  {{- range $name, $w := .Values._.workloads }}{{ if $w.bus }}{{ $_ := set $keys $name "" }}{{ end }}{{ end -}}
  {{- $_ := set $made "nats" $keys -}}
{{- end -}}
{{- range $secret, $keys := $made -}}
  {{- $found := (lookup "v1" "Secret" $.Release.Namespace (printf "%s-%s" $.Release.Name $secret)).data | default dict -}}
  {{- range $key, $_ := $keys -}}
    {{- if $.Values.secrets.seed -}}
      {{- $_ := set $keys $key (sha256sum (printf "%s/%s/%s/%s" $.Values.secrets.seed $.Release.Name $secret $key) | trunc 40) -}}
    {{- else if hasKey $found $key -}}
      {{- $_ := set $keys $key (get $found $key | b64dec) -}}
    {{- else -}}
      {{- $_ := set $keys $key (randAlphaNum 32) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- $_ := set .Values._ "made" $made -}}
{{- if and (eq .Values.tls.mode "trial") (not .Values.tls.trial.existingSecret) -}}
  {{- $found := (lookup "v1" "Secret" .Release.Namespace (printf "%s-ca" .Release.Name)).data -}}
  {{- $ca := dict -}}
  {{- if $found -}}
    {{- $ca = dict "ca.crt" (get $found "ca.crt" | b64dec) "ca.key" (get $found "ca.key" | b64dec) -}}
  {{- else -}}
    {{- $new := genCAWithKey (printf "%s.%s trial authority" .Release.Name .Release.Namespace) 3650 (genPrivateKey "ecdsa") -}}
    {{- $ca = dict "ca.crt" $new.Cert "ca.key" $new.Key -}}
  {{- end -}}
  {{- $_ := set $made "ca" $ca -}}
{{- end -}}
{{- end }}

{{/* The address of a service's database on the trial Postgres. Call with (list $ service). */}}
{{- define "waybill.databaseURL" -}}
{{- $ := index . 0 -}}{{- $service := index . 1 -}}
postgres://waybill_{{ $service }}:{{ get $.Values._.made.postgres $service }}@{{ include "waybill.host" (list $ "postgres") }}:5432/waybill_{{ $service }}?sslmode=disable
{{- end }}
