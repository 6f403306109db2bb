#!/usr/bin/env bash
# A contender of `make bench-controllers`: drains the benchmark's stream with several controllers of one namespace.
# Usage: controllers.sh HOW_MANY; what it drains comes in the environment that the benchmark gives every contender.
set -euo pipefail
program=${BENCH_SLUICE:-"$(dirname "$0")/../target/release/sluice"}
dir=$(mktemp -d)
pids=()
# What the benchmark ends is this shell: it ends its controllers, and waits for what they still write.
end() {
	kill "${pids[@]}" 2>/dev/null || true
	wait || true
	rm -rf "$dir"
}
trap end EXIT
trap 'exit 0' TERM INT

cat >"$dir/sluice.yml" <<SETTINGS
namespace: ${STREAM%_*}
nats: {urls: ['$NATS_URL']}
mongodb: {connections: {default: {url: '$MONGO_URL', database: $DATABASE}}}
http: {listen: '127.0.0.1:0'}
SETTINGS
printf 'schema: 1\noutput:\n  mongodb: {collection: %s}\n' "$COLLECTION" >"$dir/readings.yml"
"$program" --settings "$dir/sluice.yml" publish "${STREAM##*_}" -f "$dir/readings.yml"
for ((n = 0; n < $1; n++)); do
	"$program" --settings "$dir/sluice.yml" run &
	pids+=($!)
done
wait
