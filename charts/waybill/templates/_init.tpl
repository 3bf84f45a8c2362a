{{/*
What the other templates work from, computed once and kept in .Values._: the workloads with their defaults, which workload runs
which service, who calls whom, and the secrets the chart makes. Each file begins with it, since Helm promises no order of files;
secrets made by chance would otherwise differ between the files that need them.
*/}}
{{- define "waybill.init" -}}
{{- if not (hasKey .Values "_") -}}
  {{- $topology := (.Files.Get "files/topology.json" | fromJson).services -}}
  {{- $workloads := dict -}}
  {{- $runs := dict -}}
  {{- range $name, $own := .Values.workloads -}}
    {{- range get $own "services" | default (list $name) -}}
      {{- if not (hasKey $topology .) -}}
        {{- fail (printf "workloads.%s: there is no service %q; there are %s" $name . (keys $topology | sortAlpha | join ", ")) -}}
      {{- end -}}
      {{- if hasKey $runs . -}}
        {{- fail (printf "the service %s runs in two workloads, %s and %s: take it out of one of them" . (get $runs .) $name) -}}
      {{- end -}}
      {{- $_ := set $runs . $name -}}
    {{- end -}}
    {{- $_ := set $workloads $name (deepCopy $own) -}}
  {{- end -}}
  {{- range $service, $_ := $topology -}}
    {{- if not (hasKey $runs $service) -}}
      {{- if hasKey $workloads $service -}}
        {{- fail (printf "no workload runs the service %s: the workload of its name runs others. Add it to the services of one" $service) -}}
      {{- end -}}
      {{- $_ := set $runs $service $service -}}
      {{- $_ := set $workloads $service dict -}}
    {{- end -}}
  {{- end -}}
  {{- range $name, $own := $workloads -}}
    {{- $w := mergeOverwrite (deepCopy $.Values.workloadDefaults) $own -}}
    {{- $_ := set $w "name" $name -}}
    {{- $_ := set $w "account" (printf "%s-%s" $.Release.Name $name) -}}
    {{- $_ := set $w "services" ($w.services | default (list $name)) -}}
    {{- $calls := list -}}
    {{- range $w.services -}}
      {{- $s := get $topology . -}}
      {{- $calls = concat $calls $s.calls -}}
      {{- if $s.database }}{{ $_ := set $w "database" true }}{{ end -}}
      {{- if $s.nats }}{{ $_ := set $w "bus" true }}{{ end -}}
      {{- if eq . "gateway" }}{{ $_ := set $w "gateway" true }}{{ end -}}
    {{- end -}}
    {{- $_ := set $w "calls" (uniq $calls | sortAlpha) -}}
    {{- $_ := set $w "keeps" (or (and $.Values.sqlite.enabled $w.database) (and $.Values.nats.embedded $w.bus) | default false) -}}
    {{- $_ := set $w "pods" (ternary $w.autoscaling.minReplicas $w.replicas $w.autoscaling.enabled | int) -}}
    {{- $_ := set $workloads $name $w -}}
  {{- end -}}
  {{- /* neighbours: the workloads it calls; a service in the same process is no neighbour */ -}}
  {{- range $name, $w := $workloads -}}
    {{- $remote := list -}}
    {{- $neighbours := list -}}
    {{- range $w.calls -}}
      {{- if ne (get $runs .) $name -}}
        {{- $remote = append $remote . -}}
        {{- $neighbours = append $neighbours (get $runs .) -}}
      {{- end -}}
    {{- end -}}
    {{- $_ := set $w "remote" $remote -}}
    {{- $_ := set $w "neighbours" (uniq $neighbours | sortAlpha) -}}
  {{- end -}}
  {{- range $name, $w := $workloads -}}
    {{- $callers := list -}}
    {{- range $other, $o := $workloads -}}
      {{- if has $name $o.neighbours }}{{ $callers = append $callers $other }}{{ end -}}
    {{- end -}}
    {{- $_ := set $w "callers" ($callers | sortAlpha) -}}
  {{- end -}}
  {{- $_ := set .Values "_" (dict "topology" $topology "workloads" $workloads "runs" $runs) -}}
  {{- range $workloads }}{{ if and .autoscaling.enabled (eq .autoscaling.kind "keda") }}{{ $_ := set $.Values._ "keda" true }}{{ end }}{{ end -}}
  {{- include "waybill.validate" . -}}
  {{- include "waybill.generate" . -}}
{{- end -}}
{{- end }}
