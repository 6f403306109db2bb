#!/usr/bin/env bash
# `make bench-kubernetes`: how long an entry takes to become an available Deployment, beside a bare `kubectl apply` of the same
# manifests.
#
#   ROUNDS=10 deploy/local/bench-kubernetes.sh [--binary FILE]
#
# In turns: `kubectl apply -f …` of what the controller has made of another pipeline, under other names, then one edit of a KV
# entry by the `nats` command. Both are timed from before the command is typed until one and the same watch shows the
# Deployment as available. Printed: both medians and their ratio; every round lies in target/bench/kubernetes.json. Cluster,
# servers and controller are its own, and are stopped at the end.
source "$(dirname "${BASH_SOURCE[0]}")/bench.sh"

cluster=$dir/cluster
clean() { [ ! -e "$cluster/number" ] || bash $here/cluster.sh stop "$cluster"; }

bash $here/tools.sh nats-server database nats kubernetes >/dev/null
said=$(bash $here/cluster.sh start "$cluster")
eval "$said"
export KUBECONFIG=$kubeconfig
export STACK_HOST=$gateway
servers

# The image, without an engine.
image=sluice:$name
sh executor-image/stage.sh "$binary" "$dir/tree"
python3 $here/cluster/image.py "$dir/tree" executor-image/Dockerfile "$image" >"$dir/image.tar"
bash $here/cluster.sh load "$cluster" "$dir/image.tar"

kube() { "$kubectl" --namespace "$name" "$@"; }
kube create namespace "$name" >/dev/null
kube label namespace "$name" pod-security.kubernetes.io/enforce=restricted >/dev/null
controller <<YAML
executor:
  kind: kubernetes
  kubernetes: {kubeconfig: '$kubeconfig', namespace: '$name', image: '$image', pull: never, memory: 256MiB}
YAML
# One line for each change of a Deployment: milliseconds, name, how many of its pods are available.
"$kubectl" --namespace "$name" get deployments --watch -o 'jsonpath={.metadata.name} {.status.availableReplicas}{"\n"}' \
  > >(while read -r line; do echo "$(date +%s%3N) $line"; done >"$dir/seen") 2>/dev/null &
pids+=($!)
# available DEPLOYMENT SINCE: when it was seen to be so, in milliseconds; fails where it was not.
available() { awk -v name="$1" -v since="$2" '$1 >= since && $2 == name && $3 == 1 {print $1; found = 1; exit} END {exit !found}' "$dir/seen"; }
# took DEPLOYMENT SINCE: in milliseconds.
took() {
  until_ 0.02 available "$@" >/dev/null
  echo $(($(available "$@") - $2))
}
none() { [ -z "$(kube get deployments,replicasets,pods -o name --selector "$1" 2>/dev/null)" ]; }

# The first start of each makes the stream and the consumer, and is no round. `model` goes on running beside its copy, so
# that all that the copy is asked for is there.
for pipeline in model rounds; do sluice publish $pipeline -f "$dir/config.yml" --wait; done
version=$(version_of rounds)
deployment=$(kube get deployments --selector sluice/id=rounds -o 'jsonpath={.items[0].metadata.name}')
kube get deployments,configmaps,secrets --selector sluice/id=model -o json | python3 -c '
import json, sys
# The same under other names, which the controller knows nothing of.
text = json.dumps([item for item in json.load(sys.stdin)["items"] if item["metadata"].get("labels")])
items = json.loads(text.replace("\"sluice/", "\"bare/"))
names = {item["metadata"]["name"] for item in items}
text = json.dumps(items)
for name in sorted(names, key=len, reverse=True):
    text = text.replace("\"%s\"" % name, "\"bare-%s\"" % name)
items = json.loads(text)
for item in items:
    kept = ("name", "labels")
    item["metadata"] = {key: value for key, value in item["metadata"].items() if key in kept}
    item.pop("status", None)
json.dump({"apiVersion": "v1", "kind": "List", "items": items}, sys.stdout)' >"$dir/bare.json"
copy=bare-$(kube get deployments --selector sluice/id=model -o 'jsonpath={.items[0].metadata.name}')

bare=() edits=()
for ((round = 0; round < rounds; round++)); do
  sluice draft rounds --wait
  until_ 0.02 none sluice/id=rounds
  before=$(now_ms)
  kube apply -f "$dir/bare.json" >/dev/null
  bare+=("$(took "$copy" "$before")")
  kube delete -f "$dir/bare.json" --cascade=foreground --wait >/dev/null
  until_ 0.02 none bare/id=model
  before=$(now_ms)
  put rounds published
  edits+=("$(took "$deployment" "$before")")
  printf 'round %2d: kubectl apply %5d ms, entry %5d ms\n' $((round + 1)) "${bare[-1]}" "${edits[-1]}"
done

a=$(median "${bare[@]}") b=$(median "${edits[@]}")
ratio=$(over "$a" "$b")
mkdir -p target/bench
printf '{"rounds": %d, "kubectl_apply_ms": [%s], "entry_ms": [%s], "median_kubectl_apply_ms": %s, "median_entry_ms": %s, "ratio": %s}\n' \
  "$rounds" "$(list "${bare[@]}")" "$(list "${edits[@]}")" "$a" "$b" "$ratio" >target/bench/kubernetes.json
printf 'median: kubectl apply %s ms, entry %s ms; ratio %s\n' "$a" "$b" "$ratio"
