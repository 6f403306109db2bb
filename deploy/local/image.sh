#!/usr/bin/env bash
# Builds the image of executor-image/Dockerfile and prints its name and id; the same source gives the same id.
#
#   deploy/local/image.sh [--binary FILE] [--name NAME] [--save FILE]
#
# Without --binary: where the bases can be had, the Dockerfile's default stage compiles; elsewhere `cargo build --release`
# does, and the binary goes into an image from scratch with this machine's libraries. --name is sluice:{version} unless said
# otherwise; --save keeps what `docker load` takes. Where no engine is reachable (DOCKER_HOST), one is started for the
# build and stopped again, and the image is saved under target/image. SOURCE_DATE_EPOCH is the time that everything in the
# image bears (default: the commit's).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# The largest image of a release build.
MOST=25000000
say() { printf 'image: %s\n' "$*" >&2; }
die() { printf 'image: error: %s\n' "$*" >&2; exit 1; }

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
binary='' name=sluice:$version save=''
while [ $# -gt 0 ]; do
  case $1 in
    --binary) binary=$2 ;;
    --name) name=$2 ;;
    --save) save=$2 ;;
    *) die "unknown option '$1'" ;;
  esac
  shift 2
done

given=$binary

revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
[ -z "$(git status --porcelain 2>/dev/null)" ] || revision=$revision-dirty
# A remote's address may hold a password.
source=$(git config --get remote.origin.url 2>/dev/null | sed -E 's#//[^/@]*@#//#' | grep -E '^(https?|ssh)://' || echo unknown)
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}

work=$(mktemp -d "${TMPDIR:-/tmp}/sluice-image.XXXXXX")
engine=''
finish() {
  [ -z "$engine" ] || bash deploy/local/docker.sh stop "$engine" || true
  rm -rf "$work"
}
trap finish EXIT

docker=$(bash deploy/local/tools.sh docker)
if ! timeout 20 "$docker" version >/dev/null 2>&1; then
  engine=$work/engine
  DOCKER_HOST=$(bash deploy/local/docker.sh start "$engine" | sed -n 's/^host=//p')
  export DOCKER_HOST
  save=${save:-target/image/sluice-$version.tar}
fi

labels=(--build-arg "VERSION=$version" --build-arg "REVISION=$revision" --build-arg "SOURCE=$source")
base() { sed -n "s/^ARG $1=//p" executor-image/Dockerfile; }
can_have() { timeout 20 "$docker" image inspect "$1" >/dev/null 2>&1 || timeout 300 "$docker" pull -q "$1" >/dev/null 2>&1; }
if [ -z "$binary" ] && [ -z "$engine" ] && can_have "$(base RUST)" && can_have "$(base BASE)"; then
  say "compiling in the image's own build stage"
  "$docker" build -q --iidfile "$work/id" "${labels[@]}" -f executor-image/Dockerfile . >&2
else
  if [ -z "$binary" ]; then
    say "the bases cannot be had here: compiling on this machine, into an image from scratch"
    cargo build --release --locked --bin sluice >&2
    binary=target/release/sluice
  fi
  mkdir "$work/context"
  cp executor-image/Dockerfile "$work/context"
  sh executor-image/stage.sh "$binary" "$work/context/tree"
  DOCKER_BUILDKIT=0 "$docker" build -q --no-cache --iidfile "$work/id" --target prebuilt --build-arg PREBUILT=tree "${labels[@]}" \
    "$work/context" >/dev/null 2>"$work/log" || { cat "$work/log" >&2; die "the image could not be built"; }
fi
built=$(cat "$work/id")
"$docker" save "$built" | python3 executor-image/reproducible.py "$epoch" "$name" >"$work/image.tar"
"$docker" rmi "$built" >/dev/null 2>&1 || true
"$docker" load -q -i "$work/image.tar" >/dev/null
if [ -n "$save" ]; then
  mkdir -p "$(dirname "$save")"
  mv "$work/image.tar" "$save"
  say "saved as $save"
fi
size=$("$docker" image inspect --format '{{.Size}}' "$name")
# A binary of somebody's own may be a debug build.
if [ -z "$given" ] && [ "$size" -gt "$MOST" ]; then die "the image has $size bytes, more than $MOST: what has come in?"; fi
"$docker" image inspect --format "$name {{.Id}} $size" "$name"
