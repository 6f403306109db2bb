#!/usr/bin/env bash
# Prints how many instructions the hot path takes per document, counted by valgrind: the same on every machine with the
# same compiler, however busy it is.
#
# Only the hot path's own sources are compiled for it (benches/hot_path), as a release compiles them: that takes seconds.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
valgrind=$(bash deploy/local/tools.sh valgrind)
export CARGO_TARGET_DIR=target/hot_path
cargo build --quiet --locked --release --manifest-path benches/hot_path/Cargo.toml >&2

# count DOCUMENTS: instructions of a whole run.
count() {
  local log
  log=$("$valgrind" --tool=callgrind --callgrind-out-file=/dev/null target/hot_path/release/hot_path "$1" 2>&1) || { echo "$log" >&2; exit 1; }
  sed -n 's/.*Collected : \([0-9]*\).*/\1/p' <<<"$log"
}

few=20000 many=60000
less=$(count $few) more=$(count $many)
echo $(((more - less) / (many - few)))
