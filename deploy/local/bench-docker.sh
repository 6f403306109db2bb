#!/usr/bin/env bash
# `make bench-docker`: how long an entry takes to become a running container, beside a bare `docker run` of the same image
# with the same confinement.
#
#   ROUNDS=10 MANY=0 deploy/local/bench-docker.sh [--binary FILE]
#
# In turns: `docker run -d …`, then one edit of a KV entry by the `nats` command. Both are timed from before the command is
# typed until the engine's own `State.StartedAt` of the container. Printed: both medians and their ratio; every round lies in
# target/bench/docker.json. With MANY=100, so many containers at once after that: `docker run` by four processes at a time,
# then as many edits, by four processes and with `parallel: 4`; three rounds of both. CALLS=1 says after each of those which
# calls to the engine the controller made for one of them, until five seconds after the last start. Servers, an engine
# (DOCKER_HOST is used where it answers) and a controller are its own, and are stopped at the end; on an engine of others it
# removes only what it made.
source "$(dirname "${BASH_SOURCE[0]}")/bench.sh"
many=${MANY:-0}

engine=''
clean() {
  local left
  for label in "sluice/namespace=$name" "bench=$name"; do
    left=$(docker ps -aq --filter "label=$label")
    [ -z "$left" ] || docker rm -f $left >/dev/null
    left=$(docker volume ls -q --filter "label=$label")
    [ -z "$left" ] || docker volume rm $left >/dev/null
  done
  [ -z "${image:-}" ] || docker rmi "$image" >/dev/null 2>&1
  [ -z "$engine" ] || bash $here/docker.sh stop "$engine"
}

bash $here/tools.sh nats-server database nats docker >/dev/null
PATH=$(dirname "$(bash $here/tools.sh docker)"):$PATH
if ! timeout 20 docker version >/dev/null 2>&1; then
  engine=$dir/engine
  DOCKER_HOST=$(bash $here/docker.sh start "$engine" | sed -n 's/^host=//p')
  export DOCKER_HOST
fi
servers
image=sluice:$name
bash $here/image.sh --binary "$binary" --name "$image" >/dev/null

log=''
[ -z "${CALLS:-}" ] || log="log: {level: 'info,sluice::executor::docker::engine=debug', format: json}"
controller <<YAML
$log
executor:
  kind: docker
  docker: {host: '${DOCKER_HOST:-unix:///var/run/docker.sock}', image: '$image', pull: never, network: host, memory: 256MiB}
YAML
# Not looked often: whoever looks takes time from what is measured.
containers() { docker ps -aq --no-trunc --filter "label=sluice/namespace=$name" "$@"; }
none() { [ -z "$(containers)" ]; }
one() { [ -n "$(containers --filter status=running)" ]; }
# started CONTAINER: when the engine started it, in milliseconds.
started() { date -d "$(docker inspect --format '{{.State.StartedAt}}' "$1")" +%s%3N; }

bare() {
  docker run -d --label "bench=$name" --network host --user 65532:65532 --read-only --cap-drop ALL \
    --security-opt no-new-privileges --pids-limit 256 --memory 256m --memory-swap 256m --cpus 1 --ipc private \
    --log-driver json-file --mount "type=volume,target=/etc/sluice,volume-label=bench=$name" \
    --entrypoint /usr/bin/sluice "$image" probe
}

# The first start makes the stream and the consumer, and is no round.
sluice publish rounds -f "$dir/config.yml" --wait
version=$(version_of rounds)
bare=() edits=()
for ((round = 0; round < rounds; round++)); do
  sluice draft rounds --wait
  until_ 0.25 none
  before=$(now_ms)
  container=$(bare)
  bare+=($(($(started "$container") - before)))
  docker rm -fv "$container" >/dev/null
  before=$(now_ms)
  put rounds published
  until_ 0.25 one
  edits+=($(($(started "$(containers --filter status=running)") - before)))
  printf 'round %2d: docker run %5d ms, entry %5d ms\n' $((round + 1)) "${bare[-1]}" "${edits[-1]}"
done

a=$(median "${bare[@]}") b=$(median "${edits[@]}")
ratio=$(over "$a" "$b")

# at_once WORD…: runs `WORD… N` for N of 1 to $many, four at a time.
at_once() {
  local n
  for ((n = 1; n <= many; n++)); do
    # The oldest of four goes first, or whichever is done.
    while [ "$(jobs -rp | grep -vcx "${pids[0]}")" -ge 4 ]; do wait -n 2>/dev/null || true; done
    "$@" "$n" >/dev/null &
  done
  local left
  for left in $(jobs -p | grep -vx "${pids[0]}"); do wait "$left"; done
}
entry_of() { put "many$2" "$1"; }
first() { sluice publish "many$1" -f "$dir/config.yml"; }
running() { [ "$(containers --filter status=running | wc -l)" = "$1" ]; }
# last_start FILTER: when the engine started the last of these containers, in milliseconds.
last_start() {
  docker ps -aq --no-trunc --filter "$1" | xargs docker inspect --format '{{.State.StartedAt}}' | while read -r at; do date -d "$at" +%s%3N; done |
    sort -n | tail -n 1
}
called() { grep -c '"engine called"' "$dir/sluice.log" || true; }
# calls SINCE: of which kind the calls were after so many, for each of what was started at once.
calls() {
  grep '"engine called"' "$dir/sluice.log" | tail -n "+$(($1 + 1))" | sed -E 's/.*"what":"([^"]*)".*/\1/' | sort | uniq -c | sort -rn |
    awk -v many="$many" '{n = $1; $1 = ""; printf "  %6.2f%s\n", n / many, $0; sum += n} END {printf "  %6.2f calls for each\n", sum / many}'
}
many_bare=() many_edits=() many_ratio=0
if [ "$many" -gt 0 ]; then
  sluice draft rounds --wait
  # Streams and consumers are there afterwards, and this is no round.
  at_once first
  until_ 0.25 running "$many"
  version=$(version_of many1)
  for ((round = 0; round < 3; round++)); do
    at_once entry_of draft
    until_ 0.25 none
    before=$(now_ms)
    at_once bare
    many_bare+=($(($(last_start "label=bench=$name") - before)))
    docker ps -aq --filter "label=bench=$name" | xargs docker rm -fv >/dev/null
    calls=$(called)
    before=$(now_ms)
    at_once entry_of published
    until_ 0.25 running "$many"
    many_edits+=($(($(last_start "label=sluice/namespace=$name") - before)))
    printf '%d at once, round %d: docker run %5d ms, entries %5d ms\n' "$many" $((round + 1)) "${many_bare[-1]}" "${many_edits[-1]}"
    if [ -n "${CALLS:-}" ]; then
      sleep 5
      calls "$calls"
    fi
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
