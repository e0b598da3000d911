{{/* The pods of Jobs are made apart: a Job is named after what is in its pod. */}}
{{- define "ais.trainer.pod" -}}
{{- include "ais.pod" .context }}
restartPolicy: Never  # the Job starts another pod
terminationGracePeriodSeconds: {{ .own.stopSeconds }}
initContainers:
  {{- with include "ais.example" .context }}{{ . | nindent 2 }}{{ end }}
  # Checks the settings, makes a start policy where they ask for one, and begins the run's directory: what it writes
  # there is read by the evaluation's replicas.
  - name: prepare
    image: {{ include "ais.image" (dict "root" .root "own" .own.image) }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    args: [prepare, -c, {{ include "ais.config" .root }}]
    env: {{- .prepared | nindent 6 }}
    securityContext: {{- include "ais.confined" . | nindent 6 }}
    resources: {{- include "ais.resources" .context | nindent 6 }}
    volumeMounts: {{- include "ais.mounts" .context | nindent 6 }}
containers:
  - name: trainer
    image: {{ include "ais.image" (dict "root" .root "own" .own.image) }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    args: [trainer, -c, {{ include "ais.config" .root }}]
    env: {{- .environment | nindent 6 }}
    ports:
      - {name: http, containerPort: 8000}
    {{- include "ais.probes" (dict "seconds" 1800 "hang" 600) | nindent 4 }}
    securityContext: {{- include "ais.confined" . | nindent 6 }}
    resources: {{- include "ais.resources" .context | nindent 6 }}
    volumeMounts: {{- include "ais.mounts" .context | nindent 6 }}
{{- end }}

{{- define "ais.collector.pod" -}}
{{- include "ais.pod" .context }}
restartPolicy: Never
terminationGracePeriodSeconds: 20
initContainers:
  {{- with include "ais.example" .context }}{{ . | nindent 2 }}{{ end }}
  {{- include "ais.wait" . | nindent 2 }}
containers:
  - name: collector
    image: {{ include "ais.image" (dict "root" .root "own" dict) }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    args: [collector, -c, {{ include "ais.config" .root }}]
    env:
      {{- include "ais.environment" (merge (dict "more" (dict
        "AIS_COLLECTOR__HTTP_HOST" "0.0.0.0"
        "AIS_COLLECTOR__HTTP_PORT" "8000"
      ) | merge (ternary (dict "AIS_COLLECTOR__AGENTS_HOST" "0.0.0.0" "AIS_COLLECTOR__AGENTS_PORT" "8100") dict .root.Values.agent.enabled)) .context) | trim | nindent 6 }}
    ports:
      - {name: http, containerPort: 8000}
      {{- if .root.Values.agent.enabled }}
      - {name: agents, containerPort: 8100}
      {{- end }}
    {{- include "ais.probes" (dict "seconds" 600 "hang" 120) | nindent 4 }}
    securityContext: {{- include "ais.confined" . | nindent 6 }}
    resources: {{- include "ais.resources" .context | nindent 6 }}
    volumeMounts: {{- include "ais.mounts" .context | nindent 6 }}
{{- end }}

{{- define "ais.evaluation.pod" -}}
{{- include "ais.pod" .context }}
restartPolicy: Never
terminationGracePeriodSeconds: 40
initContainers:
  {{- with include "ais.example" .context }}{{ . | nindent 2 }}{{ end }}
  {{- include "ais.wait" . | nindent 2 }}
containers:
  - name: evaluation
    image: {{ include "ais.image" (dict "root" .root "own" .own.image) }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    args: [conclude, -c, {{ include "ais.config" .root }}]
    env: {{- include "ais.environment" .context | trim | nindent 6 }}
    securityContext: {{- include "ais.confined" . | nindent 6 }}
    resources: {{- include "ais.resources" .context | nindent 6 }}
    volumeMounts: {{- include "ais.mounts" .context | nindent 6 }}
{{- end }}

{{/* The trainer's pod begins the run's directory. */}}
{{- define "ais.wait" -}}
- name: wait
  image: {{ include "ais.image" (dict "root" .root "own" (.own.image | default dict)) }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command: [sh, -c, "until [ -e /var/lib/ais/runs/{{ .root.Values.run.name }}/config.toml ]; do sleep 1; done"]
  securityContext: {{- include "ais.confined" . | nindent 4 }}
  resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {memory: 64Mi}}
  volumeMounts:
    - {name: runs, mountPath: /var/lib/ais/runs, readOnly: true}
{{- end }}
