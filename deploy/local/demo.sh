#!/usr/bin/env bash
# `make demo`: the whole of Sluice on this machine in half a minute, each step announced in one line.
#
# Servers on free ports in a directory of their own, `sluice run`, two pipelines published, a bundled file and live
# samples of this machine flowing through them, a pause and its end, and a check that what was sent is in MongoDB exactly
# once. Everything is stopped at the end, also by Ctrl-C or an error; where something fails, the logs stay.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
here=deploy/local
began=$SECONDS
bold='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' plain=$'\e[0m'; fi
step() { printf '\n%s%s%s\n' "$bold▸ " "$*" "$plain"; }
die() { printf 'demo: error: %s\n' "$*" >&2; exit 1; }

dir=$(mktemp -d "${TMPDIR:-/tmp}/sluice-demo.XXXXXX")
run_pid='' send_pid=''

# finish STATUS: stops what this script started, and nothing else.
finish() {
  local status=$1
  trap - EXIT INT TERM HUP
  set +e
  if [ -n "$send_pid" ]; then kill "$send_pid" 2>/dev/null; fi
  if [ -n "$run_pid" ]; then kill -TERM "$run_pid" 2>/dev/null; wait "$run_pid" 2>/dev/null; fi
  bash $here/stack.sh down "$dir"
  if [ "$status" = 0 ]; then
    rm -rf "$dir"
  elif [ "$status" = 130 ] || [ "$status" = 143 ]; then
    rm -rf "$dir"
    echo 'demo: interrupted, everything is stopped' >&2
  else
    if [ -s "$dir/sluice.log" ]; then tail -n 15 "$dir/sluice.log" >&2; fi
    echo "demo: failed; logs and data are in $dir" >&2
  fi
  exit "$status"
}
trap 'finish $?' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

sluice() { target/debug/sluice --settings "$dir/sluice.yml" "$@"; }
query() { MONGO_URL=$MONGO_URL DATABASE=demo target/debug/examples/query "$@"; }

# arrives COLLECTION COUNT: waits until the collection holds so many documents, and fails where it holds more.
arrives() {
  local count deadline=$((SECONDS + 20))
  while count=$(query --count "$1"); [ "$count" -lt "$2" ]; do
    if [ $SECONDS -ge $deadline ]; then die "$1 holds $count documents, not $2"; fi
    if ! kill -0 "$run_pid" 2>/dev/null; then die "sluice run ended"; fi
    sleep 0.1
  done
  [ "$count" -eq "$2" ] || die "$1 holds $count documents, $2 were sent"
}

step 'Find (or install, once) a nats-server and a database, and build Sluice'
bash $here/tools.sh nats-server database
cargo build --quiet --locked --bin sluice --example query

step 'Start both servers on free ports, in a directory of their own'
bash $here/stack.sh up "$dir"
eval "$(bash $here/stack.sh env "$dir")"

step 'Start "sluice run", which looks after every pipeline of the namespace "demo"'
cat >"$dir/sluice.yml" <<YAML
namespace: demo
nats: {urls: ['$NATS_URL']}
mongodb: {connections: {default: {url: '$MONGO_URL', database: demo}}}
http: {listen: '127.0.0.1:0'}
YAML
set -m # a process group of its own: Ctrl-C is for this script, which then ends everything in order
target/debug/sluice --settings "$dir/sluice.yml" run >"$dir/sluice.log" 2>&1 </dev/null &
run_pid=$!
set +m
echo "process $run_pid, log $dir/sluice.log"

step 'Publish two pipelines: a config each, then one edit of a KV entry; wait until they run'
sluice publish readings -f config/examples/readings.yml --wait
sluice publish metrics -f config/examples/metrics.yml --wait

samples=40
step "Send: $samples samples of this machine, live, beside the bundled readings of a few sensors"
bash $here/sample.sh $samples 0.1 | target/debug/sluice --settings "$dir/sluice.yml" send metrics - >"$dir/send.log" 2>&1 &
send_pid=$!
readings=$(wc -l <$here/readings.jsonl)
sluice send readings $here/readings.jsonl
arrives readings "$readings"

step 'How the pipelines are doing, while the samples still come: sluice status'
sluice status
wait "$send_pid" || { cat "$dir/send.log" >&2; die 'the samples could not be sent'; }
send_pid=''
arrives metrics $samples

step 'What is in MongoDB'
query readings metrics

more=500
step "Pause \"readings\" and send $more more: they wait in their stream"
sluice pause readings --wait
head -n $more $here/readings.jsonl | sluice send readings -
sluice status readings
[ "$(query --count readings)" -eq "$readings" ] || die 'a paused pipeline stored documents'

step 'Publish it again: they arrive'
sluice publish readings --wait
arrives readings $((readings + more))
sluice list

step 'Stop everything'
kill -TERM "$run_pid"
wait "$run_pid" || die "sluice run ended with $?"
run_pid=''
# Once more, with nothing running that could still write.
arrives_now() { [ "$(query --count "$1")" -eq "$2" ] || die "$1 does not hold exactly $2 documents"; }
arrives_now readings $((readings + more))
arrives_now metrics $samples
echo "sent $((readings + more + samples)) documents, found exactly as many; $((SECONDS - began)) s"
