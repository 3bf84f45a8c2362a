{{/* Labels that select the pods of one component: a workload, nats, postgres or test. Call with (list $ component). */}}
{{- define "waybill.selector" -}}
app.kubernetes.io/name: waybill
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Labels that select all pods of the release. */}}
{{- define "waybill.everything" -}}
app.kubernetes.io/name: waybill
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* metadata without name: namespace, labels, annotations. Call with (list $ component [annotations]). */}}
{{- define "waybill.meta" -}}
{{- $ := index . 0 -}}
namespace: {{ $.Release.Namespace }}
labels:
  {{- include "waybill.selector" . | nindent 2 }}
  app.kubernetes.io/part-of: waybill
  app.kubernetes.io/managed-by: {{ $.Release.Service }}
  app.kubernetes.io/version: {{ $.Chart.AppVersion | quote }}
  helm.sh/chart: {{ printf "%s-%s" $.Chart.Name $.Chart.Version | replace "+" "_" }}
  {{- with $.Values.commonLabels }}{{ toYaml . | nindent 2 }}{{ end }}
{{- $annotations := deepCopy $.Values.commonAnnotations }}
{{- if gt (len .) 2 }}{{ $annotations = mergeOverwrite $annotations (index . 2) }}{{ end }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "waybill.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* The full name of a Service of the release. Call with (list $ name). */}}
{{- define "waybill.host" -}}
{{- $ := index . 0 -}}
{{ $.Release.Name }}-{{ index . 1 }}.{{ $.Release.Namespace }}.svc.{{ $.Values.clusterDomain }}
{{- end }}

{{/* What every pod and container gets, as the Pod Security standard "restricted" asks. */}}
{{- define "waybill.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}
{{- define "waybill.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Nine tenths of a quantity of memory or disk, in bytes. */}}
{{- define "waybill.most" -}}
{{- $q := toString . -}}
{{- $unit := regexFind "[A-Za-z]*$" $q -}}
{{- $factor := get (dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776) $unit -}}
{{- if not $factor }}{{ fail (printf "%q is no size: say it as in 256Mi or 10Gi" $q) }}{{ end -}}
{{- mulf 0.9 (float64 (trimSuffix $unit $q)) $factor | int64 -}}
{{- end }}
