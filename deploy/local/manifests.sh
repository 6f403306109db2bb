#!/usr/bin/env bash
# Renders the chart with its defaults, for who has no Helm: `make manifests` writes deploy/kubernetes/sluice.yaml so.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
helm=$(bash deploy/local/tools.sh helm)
cat <<'YAML'
# Sluice on Kubernetes, rendered from deploy/kubernetes/chart with its defaults by `make manifests`; do not edit it there.
#
#   kubectl apply -f deploy/kubernetes/sluice.yaml
#
# Where NATS and MongoDB are stands in the ConfigMap below.
---
apiVersion: v1
kind: Namespace
metadata:
  name: sluice
  labels: {pod-security.kubernetes.io/enforce: restricted}
YAML
"$helm" template sluice deploy/kubernetes/chart --namespace sluice
