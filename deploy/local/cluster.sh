#!/usr/bin/env bash
# A real Kubernetes cluster of one node, beside any other on the machine: API server, controller manager, scheduler, etcd
# and a kubelet with a containerd of its own. Everything it has lies in one directory, and stopping it leaves nothing.
#
#   deploy/local/cluster.sh start DIR        start it (or what of it has died) and say where it is
#   deploy/local/cluster.sh stop DIR         remove its pods, stop it, delete DIR
#   deploy/local/cluster.sh serve DIR        start it, and stop it as soon as stdin ends: for who may be killed
#   deploy/local/cluster.sh person [DIR]     the same in the foreground until Ctrl-C, for a person (`make cluster`)
#   deploy/local/cluster.sh load DIR FILE    take an image: a tar as `docker save` makes it
#
# It says `kubeconfig=…` (of an administrator), `kubectl=…` and `gateway=…` (the address at which pods reach servers of this
# machine). It has addresses of its own: pods 172.27.N.0/24 on the bridge sluicekN, services 10.96.N.0/24, and 127.27.N.1 for
# what only this machine needs. The API server listens at the first address of the services, so that pods find it where
# Kubernetes says; there is no kube-proxy (other services are not reached), no DNS, and network policies are not enforced.
# Pods reach this machine and each other, nothing further. Requests of service accounts are noted in DIR/audit.log.
# Needs root and Linux, see `deploy/local/tools.sh kubernetes`.
set -euo pipefail

PATH=$PATH:/usr/sbin:/sbin
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
NODE=node1
CNI=/usr/lib/cni
# What the kubelet changes of the kernel's settings, as it was before the first cluster.
SYSCTLS=/run/sluice-cluster.sysctls

say() { printf 'cluster: %s\n' "$*" >&2; }
die() { printf 'cluster: error: %s\n' "$*" >&2; exit 1; }

# runs PID: a dead process that nobody has waited for yet does not.
runs() { [[ $(cat "/proc/$1/stat" 2>/dev/null) =~ \)\ ([A-Z])\  ]] && [ "${BASH_REMATCH[1]}" != Z ]; }
alive() { [ -s "$DIR/$1.pid" ] && runs "$(cat "$DIR/$1.pid")"; }

# until_ COMMAND…: tries for 60 s.
until_() {
  local deadline=$((SECONDS + 60))
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || return 1
    sleep 0.1
  done
}

listens() { (exec 3<>"/dev/tcp/$1/$2"); }

# launch NAME COMMAND…: starts what does not run, in a session of its own: Ctrl-C is not for it.
launch() {
  local name=$1
  shift
  alive "$name" && return
  setsid "$@" >>"$DIR/$name.log" 2>&1 </dev/null 7>&- &
  echo $! >"$DIR/$name.pid"
  disown
}

# Waits for what COMMAND says; where NAME has ended or time is up, shows the end of its log.
ready() {
  local name=$1 deadline=$((SECONDS + 90))
  shift
  until "$@" >/dev/null 2>&1; do
    if [ $SECONDS -ge $deadline ] || ! alive "$name"; then
      tail -n 15 "$DIR/$name.log" >&2
      die "$name does not get ready; its log was $DIR/$name.log"
    fi
    sleep 0.05
  done
}

# Takes a number that no other cluster has, with the bridge of its name: making that is what decides between two starts.
take_number() {
  local n
  for n in $(seq 0 255); do
    if ip -4 -o route | grep -qE "^(172\.27|10\.96)\.$n\."; then continue; fi
    if ip link add "sluicek$n" type bridge 2>/dev/null; then
      echo "$n" >"$DIR/number"
      ip addr add "172.27.$n.1/24" dev "sluicek$n"
      ip addr add "10.96.$n.1/32" dev "sluicek$n"
      ip link set "sluicek$n" up
      return
    fi
  done
  die "no free subnet in 172.27.0.0/16"
}

# Version 1 of control groups has a tree for each controller, version 2 one for all; a machine may have both.
cgroups() {
  awk '$3 == "cgroup" || $3 == "cgroup2" {print $2}' /proc/mounts | sort -u | sed "s#\$#/sluicek$n#"
}

make_cgroups() {
  local group controller
  for group in $(cgroups); do mkdir -p "$group"; done
  # Version 2 alone: what the kubelet counts on is handed down from the top, as systemd does it too.
  [ ! -e /sys/fs/cgroup/cgroup.subtree_control ] || for controller in cpuset cpu io memory hugetlb pids; do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || true
  done
}

keep_sysctls() {
  local name
  # Written once, and removed with the last cluster.
  [ -e $SYSCTLS ] || for name in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
    echo "$name $(cat "/proc/sys/$name")"
  done >$SYSCTLS
}

# Whether a kubelet runs that is not ours.
others() {
  local pid
  for pid in $(pgrep -x kubelet); do ! runs "$pid" || return 0; done
  return 1
}

# What clusters share goes with the last one.
last() {
  local name value
  while read -r name value; do [ "$(cat "/proc/sys/$name")" = "$value" ] || echo "$value" >"/proc/sys/$name"; done <$SYSCTLS
  rm -f $SYSCTLS
  # The kubelet knows no other place for it.
  if ! others; then
    rm -f /var/lib/kubelet/device-plugins/kubelet.sock
    rmdir /var/lib/kubelet/{device-plugins,} 2>/dev/null || true
  fi
}

# Keys, tokens and the files that the components read; made once.
configure() {
  local token server="https://10.96.$n.1:443"
  [ ! -e "$DIR/configured" ] || return 0
  mkdir -p "$DIR"/{pki,etcd,cni,containerd,kubelet,plugins,logs}
  openssl ecparam -name prime256v1 -genkey -noout -out "$DIR/pki/sa.key" 2>/dev/null
  openssl ec -in "$DIR/pki/sa.key" -pubout -out "$DIR/pki/sa.pub" 2>/dev/null
  # What the API server shows the kubelet; it vouches for itself.
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 -subj "/O=system:masters/CN=api-server" \
    -addext extendedKeyUsage=clientAuth -keyout "$DIR/pki/client.key" -out "$DIR/pki/client.crt" 2>/dev/null
  token=$(openssl rand -hex 20)
  echo "$token,admin,admin,system:masters" >"$DIR/pki/tokens.csv"
  cat >"$DIR/kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: sluice, cluster: {server: '$server', certificate-authority: '$DIR/pki/apiserver.crt'}}]
users: [{name: admin, user: {token: $token}}]
contexts: [{name: sluice, context: {cluster: sluice, user: admin}}]
current-context: sluice
YAML
  chmod 600 "$DIR/kubeconfig" "$DIR"/pki/*.key "$DIR/pki/tokens.csv"
  cat >"$DIR/audit.yml" <<'YAML'
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules: [{level: Metadata, userGroups: ['system:serviceaccounts']}, {level: None}]
YAML
  cat >"$DIR/containerd.toml" <<TOML
version = 2
root = "$DIR/containerd/root"
state = "$DIR/containerd/state"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "$DIR/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "sluice.local/pause:1"
  # Where this machine forbids lowering it, no sandbox would start.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$CNI"
    conf_dir = "$DIR/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      Root = "$DIR/runc"
TOML
  # Neither a gateway nor masquerading by the plugin: the bridge has its address already, and nothing is forwarded.
  cat >"$DIR/cni/10-bridge.conflist" <<JSON
{"cniVersion": "0.4.0", "name": "sluicek$n", "plugins": [{"type": "bridge", "bridge": "sluicek$n", "ipMasq": false,
 "ipam": {"type": "host-local", "dataDir": "$DIR/ipam", "routes": [{"dst": "0.0.0.0/0"}],
  "ranges": [[{"subnet": "172.27.$n.0/24", "rangeStart": "172.27.$n.10", "gateway": "172.27.$n.1"}]]}}]}
JSON
  cat >"$DIR/kubelet.yml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 172.27.$n.1
port: 10250
healthzBindAddress: 127.27.$n.1
authentication: {anonymous: {enabled: false}, webhook: {enabled: false}, x509: {clientCAFile: '$DIR/pki/client.crt'}}
authorization: {mode: AlwaysAllow}
containerRuntimeEndpoint: 'unix://$DIR/containerd.sock'
cgroupDriver: cgroupfs
cgroupRoot: /sluicek$n
enforceNodeAllocatable: []
failSwapOn: false
localStorageCapacityIsolation: false
evictionHard: {memory.available: 1Mi, nodefs.available: '0%', nodefs.inodesFree: '0%', imagefs.available: '0%', imagefs.inodesFree: '0%'}
imageGCHighThresholdPercent: 100
makeIPTablesUtilChains: false
oomScoreAdj: 0
clusterDNS: [172.27.$n.1]
clusterDomain: cluster.local
podLogsDir: '$DIR/logs'
volumePluginDir: '$DIR/plugins'
YAML
  touch "$DIR/configured"
}

start_all() {
  local bin=$tools loopback="127.27.$n.1" api="10.96.$n.1"
  launch etcd "$bin/etcd" --name default --data-dir "$DIR/etcd" --unsafe-no-fsync --log-level warn --listen-client-urls "http://$loopback:2379" \
    --advertise-client-urls "http://$loopback:2379" --listen-peer-urls "http://$loopback:2380" \
    --initial-advertise-peer-urls "http://$loopback:2380" --initial-cluster "default=http://$loopback:2380"
  launch containerd containerd --config "$DIR/containerd.toml"
  ready etcd listens "$loopback" 2379
  # Without the address types, `kubectl logs` looks up the node's name.
  launch kube-apiserver "$bin/kube-apiserver" --etcd-servers "http://$loopback:2379" --bind-address "$api" --advertise-address "$api" \
    --secure-port 443 --cert-dir "$DIR/pki" --service-cluster-ip-range "10.96.$n.0/24" --endpoint-reconciler-type none \
    --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$DIR/pki/sa.pub" \
    --service-account-signing-key-file "$DIR/pki/sa.key" --token-auth-file "$DIR/pki/tokens.csv" --authorization-mode RBAC \
    --kubelet-preferred-address-types InternalIP --kubelet-client-certificate "$DIR/pki/client.crt" \
    --kubelet-client-key "$DIR/pki/client.key" --audit-policy-file "$DIR/audit.yml" --audit-log-path "$DIR/audit.log"
  ready containerd test -S "$DIR/containerd.sock"
  [ -e "$DIR/loaded" ] || { load "$tools/pause.tar"; touch "$DIR/loaded"; }
  ready kube-apiserver "$tools/kubectl" --kubeconfig "$DIR/kubeconfig" get --raw /readyz
  launch kube-controller-manager "$bin/kube-controller-manager" --kubeconfig "$DIR/kubeconfig" --cert-dir "$DIR/pki" \
    --service-account-private-key-file "$DIR/pki/sa.key" --root-ca-file "$DIR/pki/apiserver.crt" --leader-elect=false \
    --bind-address "$loopback" --flex-volume-plugin-dir "$DIR/plugins" --kube-api-qps 100 --kube-api-burst 200
  launch kube-scheduler "$bin/kube-scheduler" --kubeconfig "$DIR/kubeconfig" --leader-elect=false --bind-address "$loopback"
  keep_sysctls
  make_cgroups
  launch kubelet "$bin/kubelet" --config "$DIR/kubelet.yml" --kubeconfig "$DIR/kubeconfig" --hostname-override $NODE \
    --node-ip "172.27.$n.1" --root-dir "$DIR/kubelet" --cert-dir "$DIR/pki/kubelet"
  ready kubelet listens "$loopback" 10248
  ready kubelet "$tools/kubectl" --kubeconfig "$DIR/kubeconfig" wait --for=condition=Ready node/$NODE --timeout 60s
  ready kube-controller-manager "$tools/kubectl" --kubeconfig "$DIR/kubeconfig" get serviceaccount default
  # New pods are only taken where this is gone too.
  untainted() { [ -z "$("$tools/kubectl" --kubeconfig "$DIR/kubeconfig" get node $NODE -o 'jsonpath={.spec.taints}')" ]; }
  ready kube-controller-manager untainted
}

start() {
  [ "$(id -u)" = 0 ] || die "a cluster of one's own needs root; name a kubeconfig in SLUICE_TEST_KUBECONFIG instead"
  tools=$(dirname "$(bash "$here/tools.sh" kubernetes)")
  if [ -e "$DIR" ] && [ ! -e "$DIR/number" ] && [ -n "$(ls -A "$DIR")" ]; then die "$DIR is not empty and no cluster's"; fi
  mkdir -p "$DIR"
  [ -s "$DIR/number" ] || take_number
  n=$(cat "$DIR/number")
  configure
  start_all
  printf 'kubeconfig=%s\nkubectl=%s\ngateway=172.27.%s.1\n' "$DIR/kubeconfig" "$tools/kubectl" "$n"
}

load() {
  ctr -a "$DIR/containerd.sock" -n k8s.io images import "$1" >/dev/null
}

# end NAME SIGNAL: sends it, waits for the end, kills what does not end.
end() {
  local pid
  alive "$1" || return 0
  pid=$(cat "$DIR/$1.pid")
  # Only what this script started: a number may have been given to another process since.
  tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$DIR/" || return 0
  kill "-$2" "$pid" 2>/dev/null || return 0
  gone() { ! runs "$pid"; }
  until_ gone || kill -KILL "$pid" 2>/dev/null || true
}

# Everything that runs in the cluster's control groups.
inside() {
  local group
  for group in $(cgroups); do find "$group" -name cgroup.procs -exec cat {} + 2>/dev/null || true; done | sort -u
}

stop() {
  [ -s "$DIR/number" ] || die "$DIR is no cluster's"
  local pid name group link left
  n=$(cat "$DIR/number")
  # Nothing is worth keeping. Nobody is left to start anything anew once these are gone.
  for name in kubelet kube-controller-manager kube-scheduler kube-apiserver etcd containerd; do end "$name" KILL; done
  for pid in $(grep -lzF "$DIR/containerd.sock" /proc/[0-9]*/cmdline 2>/dev/null | cut -d/ -f3); do kill -KILL "$pid" 2>/dev/null || true; done
  emptied() {
    left=$(inside)
    # shellcheck disable=SC2086 # one argument for each process
    [ -z "$left" ] || { kill -KILL $left 2>/dev/null || true; false; }
  }
  until_ emptied || say "processes do not end: $left"
  awk -v dir="$DIR/" 'index($2, dir) == 1 {print $2}' /proc/mounts | sort -r | while read -r left; do umount -l "$left" || true; done
  for group in $(cgroups); do find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true; done
  ip link delete "sluicek$n" 2>/dev/null || true
  # What has its place outside: sockets of shims (those that nobody listens on), links to logs, the network plugins' notes.
  for left in $(find /run/containerd/s -type s -newer "$DIR/number" 2>/dev/null); do
    grep -qF " $left" /proc/net/unix || rm -f "$left"
  done
  for link in /var/log/containers/*; do
    if [ -L "$link" ] && [[ $(readlink "$link") == "$DIR"/* ]]; then rm -f "$link"; fi
  done
  rm -f "/var/lib/cni/results/sluicek$n-"*
  rmdir /var/log/containers /var/lib/cni/{results,cache,} 2>/dev/null || true
  ip -o link show type bridge | grep -q ': sluicek[0-9]' || last
  rm -rf "$DIR"
}

serve() {
  trap 'trap - EXIT; stop' EXIT
  # Ended by the end of stdin, after which everything is put away; a signal does the same.
  trap 'exit 0' INT TERM HUP PIPE
  start
  cat >/dev/null
}

person() {
  trap 'trap - EXIT; [ ! -e "$DIR/number" ] || { say "stopping"; stop; }' EXIT
  trap 'exit 0' INT TERM HUP PIPE
  local said
  said=$(start)
  eval "$said"
  cat <<TEXT

A cluster of one node runs until Ctrl-C, or \`make cluster-stop\`:

  export KUBECONFIG=$kubeconfig
  $kubectl get nodes

Pods reach servers of this machine at $gateway; \`deploy/local/cluster.sh load $DIR FILE\` gives it an image.
TEXT
  while [ -e "$DIR/number" ]; do sleep 1 & wait $! || true; done
}

verb=${1:-}
n='' tools=''
DIR=$(realpath -m "${2:-${SLUICE_CLUSTER:-${TMPDIR:-/tmp}/sluice-cluster}}")
case $verb in
  start) start ;;
  stop) stop ;;
  serve) serve ;;
  person) person ;;
  load) load "${3:?an image}" ;;
  *) die "usage: cluster.sh start|stop|serve|person|load DIR" ;;
esac
