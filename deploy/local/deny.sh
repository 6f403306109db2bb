#!/usr/bin/env bash
# Runs cargo-deny (pinned, from tools.sh): licences, banned crates and sources must hold; advisories must hold where
# their database can be fetched, and a fetch that fails is reported and nothing more. Called by `make lint`.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
deny=$(bash deploy/local/tools.sh cargo-deny)
"$deny" --locked check bans licenses sources
if "$deny" --locked fetch db; then
  "$deny" --locked check --disable-fetch advisories
else
  echo 'lint: NOT CHECKED: the advisory database cannot be fetched from here' >&2
fi
