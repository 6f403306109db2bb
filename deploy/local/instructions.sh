#!/usr/bin/env bash
# Prints how many instructions the hot path takes per document, counted by valgrind: the same on every machine with the
# same compiler, however busy it is.
#
# Only this crate and SHA-256 are optimized: the other crates stay as the tests have built them, so that this costs
# seconds; none of them is on the hot path.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
valgrind=$(bash deploy/local/tools.sh valgrind)
cargo build --quiet --locked --example hot_path \
  --config profile.dev.package.sluice.opt-level=3 \
  --config profile.dev.package.sluice.debug-assertions=false \
  --config profile.dev.package.sluice.overflow-checks=false >&2

# count DOCUMENTS: instructions of a whole run.
count() {
  local log
  log=$("$valgrind" --tool=callgrind --callgrind-out-file=/dev/null target/debug/examples/hot_path "$1" 2>&1) || { echo "$log" >&2; exit 1; }
  sed -n 's/.*Collected : \([0-9]*\).*/\1/p' <<<"$log"
}

few=20000 many=60000
less=$(count $few) more=$(count $many)
echo $(((more - less) / (many - few)))
