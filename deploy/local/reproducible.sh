#!/usr/bin/env bash
# `make reproducible`: builds the binary twice, one build after the other and nothing kept between them, then the image of each,
# and says whether both are the same: bit for bit, and by the image's digest.
#
#   deploy/local/reproducible.sh [FIRST SECOND]
#
# With two binaries that are there it compiles nothing. CRATE_ONLY=1 keeps the dependencies between the two builds, and
# compiles and links only what is Sluice's own: minutes instead of half an hour. Exit code 1: they differ.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
die() { printf 'reproducible: %s\n' "$*" >&2; exit 1; }
dir=$(mktemp -d "${TMPDIR:-/tmp}/sluice-reproducible.XXXXXX")
trap 'rm -rf "$dir"' EXIT

if [ $# = 2 ]; then
  cp "$1" "$dir/1"
  cp "$2" "$dir/2"
else
  [ $# = 0 ] || die "usage: reproducible.sh [FIRST SECOND]"
  export CARGO_TARGET_DIR=target/reproducible
  for n in 1 2; do
    if [ -n "${CRATE_ONLY:-}" ]; then cargo clean -q --release --locked -p sluice; else rm -rf "$CARGO_TARGET_DIR"; fi
    cargo build --release --locked --bin sluice >&2
    cp "$CARGO_TARGET_DIR/release/sluice" "$dir/$n"
  done
  unset CARGO_TARGET_DIR
fi
sha256sum "$dir/1" "$dir/2" | cut -d' ' -f1
cmp "$dir/1" "$dir/2" >&2 || die "the binaries differ"

# The engine's times, names and containers are others each time.
for n in 1 2; do bash deploy/local/image.sh --binary "$dir/$n" --name "sluice:reproducible" --save "$dir/$n.tar" | cut -d' ' -f2-; done
cmp "$dir/1.tar" "$dir/2.tar" >&2 || die "the images differ"
echo "the same binary, and the same image"
