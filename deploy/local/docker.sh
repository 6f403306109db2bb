#!/usr/bin/env bash
# A Docker engine of one's own, beside any other on the machine: everything it has lies in one directory, and stopping it
# leaves nothing.
#
#   deploy/local/docker.sh start DIR [DOCKERD-FLAG…]   start it (or what of it has died) and say where it is
#   deploy/local/docker.sh stop DIR                    remove its containers, stop it, delete DIR
#   deploy/local/docker.sh serve DIR [DOCKERD-FLAG…]   start it, and stop it as soon as stdin ends: for who may be killed
#
# It says `host=unix://…` (for DOCKER_HOST), `gateway=…` (the address at which containers reach this machine) and
# `network=…`. It has a containerd, a socket, a bridge and a subnet of its own, and touches no packet filter; containers reach
# this machine and each other, nothing further. Needs root, and dockerd with containerd (`deploy/local/tools.sh docker`).
set -euo pipefail

PATH=$PATH:/usr/sbin:/sbin
# Where the subnets come from: one in 172.29.0.0/16 for the bridge, one in 172.28.0.0/16 for networks made by users.
BRIDGES=172.29
NETWORKS=172.28

say() { printf 'docker: %s\n' "$*" >&2; }
die() { printf 'docker: error: %s\n' "$*" >&2; exit 1; }

# runs PID: also false of one that has ended and that nobody asked about: not every first process of a machine does.
runs() { kill -0 "$1" 2>/dev/null && ! grep -qs '^State:.Z' "/proc/$1/status"; }
alive() { [ -s "$1" ] && runs "$(cat "$1")"; }

# until_ COMMAND…: tries for 30 s.
until_() {
  local tries=0
  until "$@" >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ $tries -lt 300 ] || return 1
    sleep 0.1
  done
}

# Takes a free subnet and makes the bridge, both named by the same number; the lock keeps two starts apart.
make_bridge() {
  exec 9>/tmp/sluice-docker-bridges.lock
  flock 9
  local n
  for n in $(seq 0 255); do
    if ! ip -4 -o addr | grep -q " $BRIDGES\.$n\." && ! ip link show "sluice$n" >/dev/null 2>&1; then
      ip link add "sluice$n" type bridge
      ip addr add "$BRIDGES.$n.1/24" dev "sluice$n"
      ip link set "sluice$n" up
      echo "$n" >"$DIR/number"
      exec 9>&-
      return
    fi
  done
  die "no free subnet in $BRIDGES.0.0/16"
}

start() {
  [ "$(id -u)" = 0 ] || die "an engine of one's own needs root; name a running one in DOCKER_HOST instead"
  command -v dockerd >/dev/null && command -v containerd >/dev/null || die "dockerd and containerd are not installed (deploy/local/tools.sh docker)"
  if [ -e "$DIR" ] && [ ! -e "$DIR/number" ] && [ -n "$(ls -A "$DIR")" ]; then die "$DIR is not empty and no engine's"; fi
  mkdir -p "$DIR"/{data,exec,containerd}
  [ -s "$DIR/number" ] || make_bridge
  local n
  n=$(cat "$DIR/number")
  if ! alive "$DIR/containerd.pid"; then
    echo '{}' >"$DIR/daemon.json"
    printf 'version = 2\nroot = "%s"\nstate = "%s"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\n  address = "%s"\n' \
      "$DIR/containerd/root" "$DIR/containerd/state" "$DIR/containerd.sock" >"$DIR/containerd.toml"
    setsid containerd --config "$DIR/containerd.toml" >>"$DIR/containerd.log" 2>&1 </dev/null &
    echo $! >"$DIR/containerd.pid"
    until_ test -S "$DIR/containerd.sock" || die "containerd does not start, see $DIR/containerd.log"
  fi
  if ! alive "$DIR/docker.pid"; then
    rm -f "$DIR/docker.pid"
    setsid dockerd --config-file "$DIR/daemon.json" --data-root "$DIR/data" --exec-root "$DIR/exec" --pidfile "$DIR/docker.pid" \
      --host "unix://$DIR/docker.sock" --containerd "$DIR/containerd.sock" --bridge "sluice$n" \
      --default-address-pool "base=$NETWORKS.$n.0/24,size=28" --iptables=false --ip6tables=false --ip-masq=false --ip-forward=false \
      "$@" >>"$DIR/docker.log" 2>&1 </dev/null &
    # Who kills it to see what happens need not hear of it from the shell.
    disown
  fi
  until_ docker --host "unix://$DIR/docker.sock" version || die "dockerd does not start, see $DIR/docker.log"
  printf 'host=unix://%s\ngateway=%s.%s.1\nnetwork=bridge\n' "$DIR/docker.sock" "$BRIDGES" "$n"
}

# end NAME: asks the process to end, waits, kills it.
end() {
  local pid
  alive "$DIR/$1.pid" || return 0
  pid=$(cat "$DIR/$1.pid")
  # Only what this script started: a number may have been given to another process since.
  tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$DIR/" || return 0
  kill "$pid" 2>/dev/null || return 0
  gone() { ! runs "$pid"; }
  until_ gone || kill -KILL "$pid" 2>/dev/null || true
}

stop() {
  [ -s "$DIR/number" ] || die "$DIR is no engine's"
  local n left pid
  n=$(cat "$DIR/number")
  if alive "$DIR/docker.pid"; then
    left=$(timeout 20 docker --host "unix://$DIR/docker.sock" ps -aq || true)
    # shellcheck disable=SC2086 # one argument for each container
    [ -z "$left" ] || timeout 60 docker --host "unix://$DIR/docker.sock" rm -f $left >/dev/null 2>&1 || true
  fi
  end docker
  end containerd
  # What a killed daemon left behind: first the shims, which would report and clean up, then what they looked after.
  for pid in $(grep -lzF "$DIR/containerd.sock" /proc/[0-9]*/cmdline 2>/dev/null | cut -d/ -f3); do kill -KILL "$pid" 2>/dev/null || true; done
  for left in "$DIR"/data/containers/*/; do
    left=$(basename "$left")
    for pid in $(cat /sys/fs/cgroup/{pids/,}docker/"$left"/cgroup.procs 2>/dev/null | sort -u); do kill -KILL "$pid" 2>/dev/null || true; done
  done
  awk -v dir="$DIR/" 'index($2, dir) == 1 {print $2}' /proc/mounts | sort -r | while read -r mount; do umount -l "$mount" || true; done
  ip link delete "sluice$n" 2>/dev/null || true
  for left in $(ip -o link show type bridge | grep -oE 'br-[0-9a-f]{12}' | sort -u); do
    # Networks that users made: only those of our own pool.
    if ip -4 -o addr show dev "$left" | grep -q " $NETWORKS\.$n\."; then ip link delete "$left" || true; fi
  done
  rm -rf "$DIR"
}

serve() {
  trap 'trap - EXIT; stop' EXIT
  # Ended by the end of stdin, after which everything is put away; a signal does the same.
  trap 'exit 0' INT TERM HUP
  start "$@"
  cat >/dev/null
}

[ $# -ge 2 ] || die "usage: docker.sh start|stop|serve DIR"
verb=$1
DIR=$(realpath -m "$2")
shift 2
case $verb in
  start) start "$@" ;;
  stop) stop ;;
  serve) serve "$@" ;;
  *) die "unknown verb '$verb'" ;;
esac
