{{/* The pod of a workload. Call with (list $ workload). */}}
{{- define "waybill.pod" -}}
{{- $ := index . 0 -}}{{- $w := index . 1 -}}
{{- $v := $.Values -}}
{{- $identity := ne $v.tls.mode "none" -}}
metadata:
  labels:
    {{- include "waybill.selector" (list $ $w.name) | nindent 4 }}
    app.kubernetes.io/part-of: waybill
    waybill.dev/role: workload
    {{- with mergeOverwrite (deepCopy $v.commonLabels) $w.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    kubectl.kubernetes.io/default-container: waybill
    {{- /* a secret that changes reaches a process only at its start */}}
    checksum/secrets: {{ pick $v._.made "secrets" "postgres" "ca" | toJson | sha256sum | trunc 16 }}-{{ dig "nats" $w.name "" $v._.made | sha256sum | trunc 16 }}
    {{- with mergeOverwrite (deepCopy $v.commonAnnotations) $w.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  serviceAccountName: {{ $w.account }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with $v.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - {name: {{ . }}}
    {{- end }}
  {{- end }}
  securityContext:
    {{- include "waybill.podSecurity" 65532 | nindent 4 }}
  {{- with $w.lifecycle }}
  # The names in use are whole; otherwise each look-up asks for them under every search domain first.
  dnsConfig: {options: [{name: ndots, value: "1"}]}
  terminationGracePeriodSeconds: {{ kindIs "invalid" .terminationGracePeriodSeconds | ternary (add .preStopSleepSeconds .drainSeconds .stopSeconds 5) .terminationGracePeriodSeconds | int }}
  {{- end }}
  {{- with $w.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $w.spread }}
  topologySpreadConstraints:
    {{- range . }}
    - topologyKey: {{ . }}
      maxSkew: 1
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "waybill.selector" (list $ $w.name) | nindent 10 }}
      {{- if not $w.keeps }}
      matchLabelKeys: [pod-template-hash]
      {{- end }}
    {{- end }}
  {{- end }}
  {{- range $key := list "nodeSelector" "tolerations" "affinity" }}
  {{- with get $w $key }}
  {{ $key }}:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- /* SQLite is migrated by the one process there is, at its start */}}
  {{- $migrate := and $w.database (not $v.sqlite.enabled) }}
  {{- if or $migrate (eq $v.tls.mode "trial") }}
  initContainers:
    {{- if eq $v.tls.mode "trial" }}
    {{- /* the first makes a certificate before anything starts; the second, if wanted, goes on making them */}}
    {{- range $container := ternary (list "certs" "certs-renewal") (list "certs") (ne $v.tls.trial.renewEvery "") }}
    - name: {{ $container }}
      image: {{ include "waybill.image" $ }}
      imagePullPolicy: {{ $v.image.pullPolicy }}
      command: [/waybill] # whatever the image begins with, as one for debugging does
      args:
        - certs
        - --no-create
        - --ca-dir=/etc/waybill/ca
        - --out=/etc/waybill/tls
        - --account={{ $w.account }}
        - --namespace={{ $.Release.Namespace }}
        - --trust-domain={{ $v.tls.trustDomain }}
        - --ttl={{ $v.tls.trial.ttl }}
        {{- if eq $container "certs-renewal" }}
        - --every={{ $v.tls.trial.renewEvery }}
      restartPolicy: Always
        {{- end }}
      securityContext:
        {{- include "waybill.containerSecurity" $ | nindent 8 }}
      resources:
        requests: {cpu: 10m, memory: 16Mi}
        limits: {memory: 64Mi}
      volumeMounts:
        - {name: ca, mountPath: /etc/waybill/ca, readOnly: true}
        - {name: tls, mountPath: /etc/waybill/tls}
    {{- end }}
    {{- end }}
    {{- if $migrate }}
    - name: migrate
      image: {{ include "waybill.image" $ }}
      imagePullPolicy: {{ $v.image.pullPolicy }}
      command: [/waybill]
      args: [migrate, --wait=2m]
      env:
        {{- include "waybill.env" . | nindent 8 }}
      securityContext:
        {{- include "waybill.containerSecurity" $ | nindent 8 }}
      resources:
        {{- toYaml $w.resources | nindent 8 }}
      {{- with include "waybill.mounts" . | trim }}
      volumeMounts:
        {{- . | nindent 8 }}
      {{- end }}
    {{- end }}
  {{- end }}
  containers:
    - name: waybill
      image: {{ include "waybill.image" $ }}
      imagePullPolicy: {{ $v.image.pullPolicy }}
      args: [serve]
      env:
        {{- if $migrate }}
        - {name: WAYBILL_MIGRATE, value: "off"} # done above
        {{- end }}
        {{- include "waybill.env" . | nindent 8 }}
      ports:
        {{- if $w.gateway }}
        - {name: http, containerPort: 8080}
        - {name: public-grpc, containerPort: 8081}
        {{- end }}
        - {name: grpc, containerPort: 9090}
        - {name: admin, containerPort: 9091}
      securityContext:
        {{- include "waybill.containerSecurity" $ | nindent 8 }}
      resources:
        {{- toYaml $w.resources | nindent 8 }}
      startupProbe:
        httpGet: {path: /healthz, port: admin}
        periodSeconds: 1
        timeoutSeconds: 2
        failureThreshold: {{ $w.probes.startupSeconds }}
      readinessProbe:
        httpGet: {path: /readyz, port: admin}
        periodSeconds: 2
        timeoutSeconds: 3
        failureThreshold: 2
      livenessProbe:
        httpGet: {path: /healthz, port: admin}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: {{ div (add $w.probes.livenessSeconds 9) 10 | max 1 }}
      {{- if $w.lifecycle.preStopSleepSeconds }}
      lifecycle:
        preStop: {sleep: {seconds: {{ $w.lifecycle.preStopSleepSeconds }}}}
      {{- end }}
      {{- with include "waybill.mounts" . | trim }}
      volumeMounts:
        {{- . | nindent 8 }}
      {{- end }}
  {{- with include "waybill.volumes" . | trim }}
  volumes:
    {{- . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "waybill.mounts" -}}
{{- $ := index . 0 -}}{{- $w := index . 1 -}}{{- $v := $.Values -}}
{{- if $w.keeps }}
- {name: data, mountPath: /data}
{{- end }}
{{- if ne $v.tls.mode "none" }}
- {name: tls, mountPath: /etc/waybill/tls, readOnly: true}
{{- end }}
{{- if and $w.bus $v.nats.external.credentialsSecretName }}
- {name: nats, mountPath: /etc/waybill/nats, readOnly: true}
{{- end }}
{{- if and $w.bus $v.nats.external.caSecretName }}
- {name: nats-ca, mountPath: /etc/waybill/nats-ca, readOnly: true}
{{- end }}
{{- end }}

{{- define "waybill.volumes" -}}
{{- $ := index . 0 -}}{{- $w := index . 1 -}}{{- $v := $.Values -}}
{{- if eq $v.tls.mode "trial" }}
- name: ca # seen by what makes certificates, not by what serves
  secret: {secretName: {{ $v.tls.trial.existingSecret | default (printf "%s-ca" $.Release.Name) }}, defaultMode: 0440}
- name: tls
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
{{- else if ne $v.tls.mode "none" }}
- name: tls
  secret: {secretName: {{ get $v.tls.secrets $w.name | default (printf "%s-tls" $w.account) }}, defaultMode: 0440}
{{- end }}
{{- if and $w.bus $v.nats.external.credentialsSecretName }}
- name: nats
  secret:
    secretName: {{ $v.nats.external.credentialsSecretName }}
    items: [{key: "{{ $w.name }}.creds", path: user.creds}]
    defaultMode: 0440
{{- end }}
{{- if and $w.bus $v.nats.external.caSecretName }}
- name: nats-ca
  secret:
    secretName: {{ $v.nats.external.caSecretName }}
    items: [{key: ca.crt, path: ca.crt}]
{{- end }}
{{- end }}
