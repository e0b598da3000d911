{{- define "ais.selector" -}}
app.kubernetes.io/name: ais
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ais.labels" -}}
{{ include "ais.selector" . }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "ais.secret" -}}
{{ .root.Values.secrets.prefix | default .root.Release.Name }}-{{ .service }}
{{- end }}

{{- define "ais.priority" -}}
{{ .root.Values.priorityClasses.prefix | default .root.Release.Name }}-{{ .level }}
{{- end }}

{{- define "ais.runs" -}}
{{ .Values.runs.claim | default (printf "%s-runs" .Release.Name) }}
{{- end }}

{{- define "ais.config" -}}
{{ if .Values.run.example }}/etc/ais/example/run/config.toml{{ else }}/etc/ais/run/config.toml{{ end }}
{{- end }}

{{- define "ais.image" -}}
{{ .own.repository | default .root.Values.image.repository }}:{{ .own.tag | default .root.Values.image.tag }}
{{- end }}

{{/* What every container may do: nothing that it does not need. */}}
{{- define "ais.confined" -}}
readOnlyRootFilesystem: true
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
{{- end }}

{{/* 10001 is the user and the group of our images; volumes and secrets are given to the group. */}}
{{- define "ais.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .user | default 10001 }}
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* Requests and limits, with the GPUs. */}}
{{- define "ais.resources" -}}
{{- $resources := deepCopy .own.resources }}
{{- if .own.gpus }}
{{- $limits := merge (dict .root.Values.gpuResource .own.gpus) ($resources.limits | default dict) }}
{{- $_ := set $resources "limits" $limits }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{/* Environment of one of our services: `service` is also its user of Redis and its secret. `loopback`: its replicas are
     on loopback, with tokens of their own. */}}
{{- define "ais.environment" -}}
{{- $redis := .root.Values.redis.address | default (printf "%s-redis:6379" .root.Release.Name) }}
{{- $values := dict "AIS_RUN__NAME" .root.Values.run.name "AIS_RUN__DIRECTORY" "/var/lib/ais/runs" }}
{{- if ne .service "agent" }}
{{- $values = merge $values (dict
  "AIS_REDIS__URL" (printf "rediss://%s@%s/0" .service $redis)
  "AIS_REDIS__PASSWORD_FILE" "/etc/ais/secrets/redis.password"
  "AIS_REDIS__CERTIFICATES" "/etc/ais/secrets"
  "AIS_ROLLOUT__DRAIN_SECONDS" (toString .root.Values.rollout.drainSeconds)
  "AIS_LAUNCHER__STOP_GRACE_SECONDS" (add .root.Values.rollout.drainSeconds 20 | toString)
) }}
{{- end }}
{{- if not .loopback }}
{{- $_ := set $values "AIS_SECURITY__TOKENS" "/etc/ais/secrets" }}
{{- $_ := set $values "AIS_SECURITY__CERTIFICATES" "/etc/ais/secrets" }}
{{- end }}
{{- $values = mergeOverwrite $values .more .root.Values.run.environment .own.environment }}
{{- range $name, $value := $values }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{/* What stands in the containers' directories. */}}
{{- define "ais.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: secrets, mountPath: /etc/ais/secrets, readOnly: true}
{{- if .root.Values.sharedMemory }}
- {name: shared-memory, mountPath: /dev/shm}
{{- end }}
{{- if .root.Values.run.example }}
- {name: example, mountPath: /etc/ais/example}
{{- else }}
- {name: settings, mountPath: /etc/ais/run, readOnly: true}
{{- end }}
{{- if .root.Values.models.claim }}
- {name: models, mountPath: /etc/ais/models}
{{- if .root.Values.run.example }}
- {name: models, mountPath: /etc/ais/example/run/models}  # where an example looks for a model of yours
{{- end }}
{{- end }}
{{- if not (has .service (list "rollout" "agent")) }}
- {name: runs, mountPath: /var/lib/ais/runs}
{{- end }}
{{- end }}

{{- define "ais.volumes" -}}
- name: tmp
  emptyDir: {medium: Memory, sizeLimit: {{ .root.Values.temporaryMemory }}}
- name: secrets
  secret: {secretName: {{ include "ais.secret" . }}, defaultMode: 0440}
{{- if .root.Values.sharedMemory }}
- name: shared-memory
  emptyDir: {medium: Memory, sizeLimit: {{ .root.Values.sharedMemory }}}
{{- end }}
{{- if .root.Values.run.example }}
- name: example
  emptyDir: {}
{{- else }}
- name: settings
  configMap: {name: {{ .root.Release.Name }}-settings}
{{- end }}
{{- if .root.Values.models.claim }}
- name: models
  persistentVolumeClaim: {claimName: {{ .root.Values.models.claim }}}
{{- end }}
{{- if not (has .service (list "rollout" "agent")) }}
- name: runs
  persistentVolumeClaim: {claimName: {{ include "ais.runs" .root }}}
{{- end }}
{{- end }}

{{/* Before the service: an example is written where all containers of the pod see it. */}}
{{- define "ais.example" -}}
{{- if .root.Values.run.example }}
- name: example
  image: {{ include "ais.image" (dict "root" .root "own" (.own.image | default dict)) }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command: [sh, -c, "[ -e /etc/ais/example/run ] || exec ais init {{ .root.Values.run.example }} /etc/ais/example/run"]
  securityContext: {{- include "ais.confined" . | nindent 4 }}
  resources: {requests: {cpu: 100m, memory: 256Mi}, limits: {memory: 512Mi}}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    - {name: example, mountPath: /etc/ais/example}
{{- end }}
{{- end }}

{{/* Every service answers on the same port. `seconds` it may take to start, `hang` not to answer. By exec: it asks for a certificate, and the kubelet has none. */}}
{{- define "ais.probes" -}}
startupProbe:
  exec: {command: [python, /usr/local/bin/probe.py, "127.0.0.1:8000", /healthz]}
  periodSeconds: 5
  timeoutSeconds: 6
  failureThreshold: {{ div (add .seconds 4) 5 }}
livenessProbe:
  exec: {command: [python, /usr/local/bin/probe.py, "127.0.0.1:8000", /healthz]}
  periodSeconds: 20
  timeoutSeconds: 6
  failureThreshold: {{ div .hang 20 }}
readinessProbe:
  exec: {command: [python, /usr/local/bin/probe.py, "127.0.0.1:8000", /readyz]}
  periodSeconds: 10
  timeoutSeconds: 6
{{- end }}

{{/* What the pods of our services have in common; `level`: of their priority. */}}
{{- define "ais.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false  # its variables begin with AIS_, as ours do
priorityClassName: {{ include "ais.priority" . }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if and .own.gpus .root.Values.runtimeClassName }}
runtimeClassName: {{ .root.Values.runtimeClassName }}
{{- end }}
{{- with .own.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .own.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext: {{- include "ais.podSecurity" (dict "user" 10001) | nindent 2 }}
volumes: {{- include "ais.volumes" . | nindent 2 }}
{{- end }}

{{/* A Job whose pods are followed by another when they die, but not when the settings are wrong (exit code 2). Only one
     runs at a time: the next begins when the last has ended. */}}
{{- define "ais.job" -}}
backoffLimit: {{ .retries }}
podReplacementPolicy: Failed
podFailurePolicy:
  rules:
    - action: FailJob
      onExitCodes: {operator: In, values: [2]}
    - action: Ignore
      onPodConditions: [{type: DisruptionTarget, status: "True"}]
{{- end }}
