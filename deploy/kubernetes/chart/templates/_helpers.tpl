{{- define "sluice.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* The release's name, with the chart's where that is not in it already. */}}
{{- define "sluice.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "sluice.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "sluice.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "sluice.selector" -}}
app.kubernetes.io/name: {{ include "sluice.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: controller
{{- end -}}

{{- define "sluice.labels" -}}
{{ include "sluice.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}

{{- define "sluice.account" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "sluice.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "sluice.image" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}

{{/* Whether the controllers act on this cluster: now, or to empty what ran there. */}}
{{- define "sluice.kubernetes" -}}
{{- $executor := default dict .Values.settings.executor -}}
{{- if or (eq (default "" $executor.kind) "kubernetes") (has "kubernetes" (default list $executor.retire)) -}}yes{{- end -}}
{{- end -}}

{{/* sluice.yml: the values' settings, and what the chart knows better. */}}
{{- define "sluice.settings" -}}
{{- $settings := deepCopy .Values.settings -}}
{{- if include "sluice.kubernetes" . -}}
{{- $names := list -}}
{{- range .Values.imagePullSecrets }}{{ $names = append $names .name }}{{ end -}}
{{- $pull := get (dict "Always" "always" "IfNotPresent" "missing" "Never" "never") .Values.image.pullPolicy -}}
{{- $given := default dict $settings.executor.kubernetes -}}
{{- $own := dict "image" (include "sluice.image" .) "pull" $pull "pull_secrets" $names -}}
{{- $_ := set $settings.executor "kubernetes" (merge $given $own) -}}
{{- end -}}
{{- $http := dict "health_listen" (printf "0.0.0.0:%d" (int .Values.http.healthPort)) "listen" (printf "127.0.0.1:%d" (int .Values.http.port)) -}}
{{- with .Values.http.token.secret -}}
{{- $_ := set $http "listen" (printf "0.0.0.0:%d" (int $.Values.http.port)) -}}
{{- $_ := set $http "token_file" (printf "secrets/http/%s" (default "token" $.Values.http.token.key)) -}}
{{- end -}}
{{- $_ := set $settings "http" $http -}}
{{- toYaml $settings -}}
{{- end -}}
