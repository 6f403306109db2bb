# What bench-docker.sh and bench-kubernetes.sh have in common; sourced by them, with their arguments (`[--binary FILE]`).
#
# It goes to the project's directory and sets $here, $rounds, $binary, $dir (gone at the end) and $name (namespace, label and
# tag of this run). At the end, however it comes, what is in $pids is ended, then `clean` is called, which the script defines,
# then the servers are stopped.
set -euo pipefail

bench=$(basename "$0" .sh)
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
here=deploy/local
rounds=${ROUNDS:-10}
binary=target/release/sluice
[ "${1:-}" != --binary ] || binary=$2
die() { printf '%s: error: %s\n' "$bench" "$*" >&2; exit 1; }
[ -x "$binary" ] || die "$binary is not there: make build"

dir=$(mktemp -d "${TMPDIR:-/tmp}/sluice-$bench.XXXXXX")
name=bench$$
pids=()
finish() {
  local status=$? pid
  trap - EXIT INT TERM HUP
  set +e
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null; wait "$pid" 2>/dev/null; done
  clean
  bash $here/stack.sh down "$dir"
  [ "$status" = 0 ] || tail -n 5 "$dir/sluice.log" >&2
  rm -rf "$dir"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# servers: starts NATS and MongoDB, and says where `nats` is.
servers() {
  nats=$(bash $here/tools.sh nats)
  bash $here/stack.sh up "$dir" >/dev/null
  eval "$(bash $here/stack.sh env "$dir")"
}
# controller: starts one whose `executor` section comes from stdin; pipelines write to `rounds`.
controller() {
  cat >"$dir/sluice.yml" <<YAML
namespace: $name
nats: {urls: ['$NATS_URL']}
mongodb: {connections: {default: {url: '$MONGO_URL', database: bench}}}
http: {listen: '127.0.0.1:0'}
$(cat)
YAML
  printf 'schema: 1\noutput:\n  mongodb: {collection: rounds}\n' >"$dir/config.yml"
  "$binary" --settings "$dir/sluice.yml" run >"$dir/sluice.log" 2>&1 </dev/null &
  pids+=($!)
  # Commands need the buckets that it makes first.
  until_ 0.05 grep -q 'controller started' "$dir/sluice.log"
}
sluice() { "$binary" --settings "$dir/sluice.yml" "$@" >/dev/null; }
# put ID STATUS: one edit of an entry, by any client of NATS; the version is $version.
put() { "$nats" --server "$NATS_URL" kv put "$name" "$1" "{\"schema\": 1, \"status\": \"$2\", \"version\": \"$version\"}" >/dev/null; }
# version_of ID: the version that its entry names.
version_of() { "$nats" --server "$NATS_URL" kv get "$name" "$1" --raw | sed -E 's/.*"version": *"([^"]*)".*/\1/' | tr -d '\n'; }
# until_ PAUSE COMMAND…: tries for five minutes, with so many seconds between.
until_() {
  local deadline=$((SECONDS + 300)) pause=$1
  shift
  until "$@"; do
    [ $SECONDS -lt $deadline ] || die "not within five minutes: $*"
    sleep "$pause"
  done
}
now_ms() { date +%s%3N; }
median() { printf '%s\n' "$@" | sort -n | awk '{v[NR] = $1} END {print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }
list() { local IFS=,; echo "$*"; }
# over A B: how many times A fits into B.
over() { awk -v a="$1" -v b="$2" 'BEGIN {printf "%.2f", b / a}'; }
