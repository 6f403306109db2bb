#!/usr/bin/env bash
# Starts a nats-server with JetStream and a database on free ports in a directory of their own, and stops exactly those.
#
#   deploy/local/stack.sh up DIR      starts what does not run yet, then prints the addresses
#   deploy/local/stack.sh down DIR    stops what `up` started; the data stay in DIR
#   deploy/local/stack.sh env DIR     prints NATS_URL and MONGO_URL as a shell reads them: eval "$(… env DIR)"
#
# Doing either twice does no harm. A process is known by its id and its start time, so that a reused id is nobody's.
# STACK_HOST is the address that they listen on (127.0.0.1); STACK_DATABASE_ARGS are further arguments for secantusd-rs
# (`--sync-on-commit`).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
say() { printf 'stack: %s\n' "$*" >&2; }
die() { printf 'stack: error: %s\n' "$*" >&2; exit 1; }

host=${STACK_HOST:-127.0.0.1}

[ $# -eq 2 ] || die "usage: $0 up|down|env DIR"
command=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd)

# started PID: when the process started, in clock ticks since boot; nothing where there is none, or a dead one.
started() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
  # The second field, the program's name, may hold spaces and brackets.
  set -- ${stat##*) }
  if [ "$1" != Z ]; then echo "${20}"; fi
}

# running NAME: prints the id of the process that this directory's NAME.pid stands for, if it still runs.
running() {
  local pid since
  read -r pid since 2>/dev/null <"$dir/$1.pid" || return 1
  [ -n "$since" ] && [ "$(started "$pid")" = "$since" ] && echo "$pid"
}

# free_port: one that nobody listens on, below the range of outgoing connections.
free_port() {
  local port
  for _ in $(seq 200); do
    port=$((12000 + (RANDOM * 32768 + RANDOM) % 20000))
    if ! (exec 3<>"/dev/tcp/$host/$port") 2>/dev/null; then echo $port; return; fi
  done
  die "no free port"
}

# launch NAME PORT COMMAND…: starts it in a process group of its own (Ctrl-C is not for it) and waits until it listens.
launch() {
  local name=$1 port=$2 pid
  shift 2
  set -m
  "$@" >>"$dir/$name.log" 2>&1 </dev/null 7>&- &
  pid=$!
  set +m
  echo "$pid $(started $pid)" >"$dir/$name.pid"
  for _ in $(seq 300); do
    if (exec 3<>"/dev/tcp/$host/$port") 2>/dev/null; then return 0; fi
    if ! running "$name" >/dev/null; then
      tail -n 20 "$dir/$name.log" >&2
      die "$name ended; its log is $dir/$name.log"
    fi
    sleep 0.05 || true
  done
  die "$name does not listen on port $port; its log is $dir/$name.log"
}

up_nats() {
  local port server
  running nats >/dev/null && return
  server=$("$here/tools.sh" nats-server)
  port=$(free_port)
  launch nats "$port" "$server" -a "$host" -p "$port" -js -sd "$dir/nats"
  echo "NATS_URL=nats://$host:$port" >"$dir/nats.env"
}

up_database() {
  local port server
  running database >/dev/null && return
  server=$("$here/tools.sh" database)
  port=$(free_port)
  mkdir -p "$dir/database"
  case $server in
    */mongod)
      launch database "$port" "$server" --bind_ip "$host" --port "$port" --dbpath "$dir/database" ;;
    *)
      # shellcheck disable=SC2086 # several arguments
      launch database "$port" "$server" --host "$host" --port "$port" --storage-path "$dir/database" --log-level WARNING ${STACK_DATABASE_ARGS:-} ;;
  esac
  echo "MONGO_URL='mongodb://$host:$port/?directConnection=true'" >"$dir/database.env"
}

# stop NAME: asks, waits, and insists after 15 s.
stop() {
  local pid
  pid=$(running "$1") || { rm -f "$dir/$1.pid" "$dir/$1.env"; return 0; }
  kill -TERM "$pid" 2>/dev/null || true
  for _ in $(seq 300); do
    running "$1" >/dev/null || break
    sleep 0.05
  done
  if running "$1" >/dev/null; then say "$1 ($pid) does not end: killed"; kill -KILL "$pid" 2>/dev/null || true; fi
  rm -f "$dir/$1.pid" "$dir/$1.env"
}

case $command in
  up)
    exec 7>"$dir/lock"
    flock 7
    # A signal between the start of a server and the note of its id would leave it behind: it counts a little later.
    interrupted=0
    trap 'interrupted=130' INT
    trap 'interrupted=143' TERM HUP
    up_nats
    up_database
    [ $interrupted = 0 ] || exit $interrupted
    cat "$dir/nats.env" "$dir/database.env"
    ;;
  down)
    exec 7>"$dir/lock"
    flock 7
    stop nats
    stop database
    ;;
  env)
    cat "$dir/nats.env" "$dir/database.env" 2>/dev/null || die "nothing runs in $dir"
    ;;
  *) die "usage: $0 up|down|env DIR" ;;
esac
