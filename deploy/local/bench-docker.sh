#!/usr/bin/env bash
# `make bench-docker`: how long an entry takes to become a running container, beside a bare `docker run` of the same image
# with the same confinement.
#
#   ROUNDS=10 MANY=0 deploy/local/bench-docker.sh [--binary FILE]
#
# In turns: `docker run -d …`, then one edit of a KV entry by the `nats` command. Both are timed from before the command is
# typed until the engine's own `State.StartedAt` of the container. Printed: both medians and their ratio; every round lies in
# target/bench/docker.json. With MANY=100, so many containers at once after that: `docker run` by four processes at a time,
# then as many edits, by four processes and with `parallel: 4`; three rounds of both. Servers, an engine (DOCKER_HOST is used where it answers) and a controller are its own, and are
# stopped at the end; on an engine of others it removes only what it made.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
here=deploy/local
rounds=${ROUNDS:-10}
many=${MANY:-0}
binary=target/release/sluice
[ "${1:-}" != --binary ] || binary=$2
die() { printf 'bench-docker: error: %s\n' "$*" >&2; exit 1; }
[ -x "$binary" ] || die "$binary is not there: make build"

dir=$(mktemp -d "${TMPDIR:-/tmp}/sluice-bench-docker.XXXXXX")
name=bench$$
pid='' engine=''
finish() {
  local status=$? left
  trap - EXIT INT TERM HUP
  set +e
  [ -z "$pid" ] || { kill "$pid" 2>/dev/null; wait "$pid" 2>/dev/null; }
  for label in "sluice/namespace=$name" "bench=$name"; do
    left=$(docker ps -aq --filter "label=$label")
    [ -z "$left" ] || docker rm -f $left >/dev/null
    left=$(docker volume ls -q --filter "label=$label")
    [ -z "$left" ] || docker volume rm $left >/dev/null
  done
  [ -z "${image:-}" ] || docker rmi "$image" >/dev/null 2>&1
  [ -z "$engine" ] || bash $here/docker.sh stop "$engine"
  bash $here/stack.sh down "$dir"
  [ "$status" = 0 ] || tail -n 5 "$dir/sluice.log" >&2
  rm -rf "$dir"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

bash $here/tools.sh nats-server database nats docker >/dev/null
nats=$(bash $here/tools.sh nats)
PATH=$(dirname "$(bash $here/tools.sh docker)"):$PATH
if ! timeout 20 docker version >/dev/null 2>&1; then
  engine=$dir/engine
  DOCKER_HOST=$(bash $here/docker.sh start "$engine" | sed -n 's/^host=//p')
  export DOCKER_HOST
fi
bash $here/stack.sh up "$dir" >/dev/null
eval "$(bash $here/stack.sh env "$dir")"
image=sluice:$name
bash $here/image.sh --binary "$binary" --name "$image" >/dev/null

cat >"$dir/sluice.yml" <<YAML
namespace: $name
nats: {urls: ['$NATS_URL']}
mongodb: {connections: {default: {url: '$MONGO_URL', database: bench}}}
http: {listen: '127.0.0.1:0'}
executor:
  kind: docker
  docker: {host: '${DOCKER_HOST:-unix:///var/run/docker.sock}', image: '$image', pull: never, network: host, memory: 256MiB}
YAML
printf 'schema: 1\noutput:\n  mongodb: {collection: rounds}\n' >"$dir/config.yml"
"$binary" --settings "$dir/sluice.yml" run >"$dir/sluice.log" 2>&1 </dev/null &
pid=$!
sluice() { "$binary" --settings "$dir/sluice.yml" "$@" >/dev/null; }
containers() { docker ps -aq --no-trunc --filter "label=sluice/namespace=$name" "$@"; }
# until_ COMMAND…: tries for 60 s.
until_() {
  local deadline=$((SECONDS + 60))
  until "$@"; do
    [ $SECONDS -lt $deadline ] || die "not within 60 s: $*"
    # Not often: whoever looks takes time from what is measured.
    sleep 0.25
  done
}
none() { [ -z "$(containers)" ]; }
one() { [ -n "$(containers --filter status=running)" ]; }
now_ms() { date +%s%3N; }
# started CONTAINER: when the engine started it, in milliseconds.
started() { date -d "$(docker inspect --format '{{.State.StartedAt}}' "$1")" +%s%3N; }
entry() { "$nats" --server "$NATS_URL" kv put "$name" rounds "$1" >/dev/null; }

bare() {
  docker run -d --label "bench=$name" --network host --user 65532:65532 --read-only --cap-drop ALL \
    --security-opt no-new-privileges --pids-limit 256 --memory 256m --memory-swap 256m --cpus 1 --ipc private \
    --log-driver json-file --mount "type=volume,target=/etc/sluice,volume-label=bench=$name" \
    --entrypoint /usr/bin/sluice "$image" probe
}

# The first start makes the stream and the consumer, and is no round.
sluice publish rounds -f "$dir/config.yml" --wait
version=$("$nats" --server "$NATS_URL" kv get "$name" rounds --raw | sed -E 's/.*"version": *"([^"]*)".*/\1/' | tr -d '\n')
bare=() edits=()
for ((round = 0; round < rounds; round++)); do
  sluice draft rounds --wait
  until_ none
  before=$(now_ms)
  container=$(bare)
  bare+=($(($(started "$container") - before)))
  docker rm -fv "$container" >/dev/null
  before=$(now_ms)
  entry "{\"schema\": 1, \"status\": \"published\", \"version\": \"$version\"}"
  until_ one
  edits+=($(($(started "$(containers --filter status=running)") - before)))
  printf 'round %2d: docker run %5d ms, entry %5d ms\n' $((round + 1)) "${bare[-1]}" "${edits[-1]}"
done

median() { printf '%s\n' "$@" | sort -n | awk '{v[NR] = $1} END {print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }
list() { local IFS=,; echo "$*"; }
over() { awk -v a="$1" -v b="$2" 'BEGIN {printf "%.2f", b / a}'; }
a=$(median "${bare[@]}") b=$(median "${edits[@]}")
ratio=$(over "$a" "$b")

# at_once WORD…: runs `WORD… N` for N of 1 to $many, four at a time.
at_once() {
  local n
  for ((n = 1; n <= many; n++)); do
    # The oldest of four goes first, or whichever is done.
    while [ "$(jobs -rp | grep -vcx "$pid")" -ge 4 ]; do wait -n 2>/dev/null || true; done
    "$@" "$n" >/dev/null &
  done
  local left
  for left in $(jobs -p | grep -vx "$pid"); do wait "$left"; done
}
entry_of() { "$nats" --server "$NATS_URL" kv put "$name" "many$2" "{\"schema\": 1, \"status\": \"$1\", \"version\": \"$version\"}"; }
first() { sluice publish "many$1" -f "$dir/config.yml"; }
running() { [ "$(containers --filter status=running | wc -l)" = "$1" ]; }
# last_start FILTER: when the engine started the last of these containers, in milliseconds.
last_start() {
  docker ps -aq --no-trunc --filter "$1" | xargs docker inspect --format '{{.State.StartedAt}}' | while read -r at; do date -d "$at" +%s%3N; done |
    sort -n | tail -n 1
}
many_bare=() many_edits=() many_ratio=0
if [ "$many" -gt 0 ]; then
  sluice draft rounds --wait
  # Streams and consumers are there afterwards, and this is no round.
  at_once first
  until_ running "$many"
  version=$("$nats" --server "$NATS_URL" kv get "$name" many1 --raw | sed -E 's/.*"version": *"([^"]*)".*/\1/' | tr -d '\n')
  for ((round = 0; round < 3; round++)); do
    at_once entry_of draft
    until_ none
    before=$(now_ms)
    at_once bare
    many_bare+=($(($(last_start "label=bench=$name") - before)))
    docker ps -aq --filter "label=bench=$name" | xargs docker rm -fv >/dev/null
    before=$(now_ms)
    at_once entry_of published
    until_ running "$many"
    many_edits+=($(($(last_start "label=sluice/namespace=$name") - before)))
    printf '%d at once, round %d: docker run %5d ms, entries %5d ms\n' "$many" $((round + 1)) "${many_bare[-1]}" "${many_edits[-1]}"
  done
  many_ratio=$(over "$(median "${many_bare[@]}")" "$(median "${many_edits[@]}")")
fi
mkdir -p target/bench
printf '{"rounds": %d, "docker_run_ms": [%s], "entry_ms": [%s], "median_docker_run_ms": %s, "median_entry_ms": %s, "ratio": %s,
 "many": %d, "many_docker_run_ms": [%s], "many_entries_ms": [%s], "many_ratio": %s}\n' \
  "$rounds" "$(list "${bare[@]}")" "$(list "${edits[@]}")" "$a" "$b" "$ratio" \
  "$many" "$(list "${many_bare[@]}")" "$(list "${many_edits[@]}")" "$many_ratio" >target/bench/docker.json
printf 'median: docker run %s ms, entry %s ms; ratio %s\n' "$a" "$b" "$ratio"
[ "$many" = 0 ] || printf '%d at once: ratio %s\n' "$many" "$many_ratio"
