#!/usr/bin/env bash
# Builds what a cluster is made of into the cache, once for each version: Kubernetes, etcd, CoreDNS and metrics-server
# from the Go module proxy, containerd and the like from Debian. Some 1,700 s of CPU; what is there is left alone.
#
#   tests/kubernetes/build.sh
set -euo pipefail
# shellcheck source=env.sh
source "$(dirname "$0")/env.sh"
export GOFLAGS="-p=${SHOP_KUBERNETES_JOBS:-2} -buildvcs=false" CGO_ENABLED=0
COMPONENTS=(kube-apiserver kube-controller-manager kubelet kube-proxy kube-scheduler)

main() {
    packages
    mkdir -p "$BIN" "$PROGRAMS/src"
    module
    build etcd ./etcd
    for component in "${COMPONENTS[@]}"; do
        build "$component" "k8s.io/kubernetes/cmd/$component"
    done
    build metrics-server sigs.k8s.io/metrics-server/cmd/metrics-server
    module_of_coredns
    build coredns .
    command -v kubectl >/dev/null || build kubectl k8s.io/kubernetes/cmd/kubectl
    echo "the programs of Kubernetes $KUBERNETES_VERSION are in $BIN"
}

packages() {
    local wanted=(containerd runc containernetworking-plugins iptables nftables conntrack iproute2 openssl curl) missing=()
    for package in "${wanted[@]}"; do
        dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] || DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" >/dev/null
}

# One module for all but CoreDNS, so that what they share is compiled once. Kubernetes has its parts as folders of its own
# repository; their published versions take the folders' place, which a module that requires it has to say.
module() {
    cd "$PROGRAMS/src"
    cp -r "$HERE/programs/." .
    [ ! -s go.mod ] || return 0
    echo "module kubernetes-programs" >go.mod
    local origin
    origin=$(go mod download -json "k8s.io/kubernetes@v$KUBERNETES_VERSION" | sed -n 's/.*"GoMod": "\(.*\)",/\1/p')
    {
        echo "module kubernetes-programs"
        sed -n 's/^go /go /p' "$origin"
        echo "replace ("
        sed -n "s#^\s*\(k8s.io/[a-z0-9.-]*\) => ./staging/.*#\t\1 => \1 v0.${KUBERNETES_VERSION#1.}#p" "$origin"
        echo ")"
    } >go.mod.new
    mv go.mod.new go.mod
    local components=("${COMPONENTS[@]/%/@v$KUBERNETES_VERSION}")
    go get "${components[@]/#/k8s.io/kubernetes/cmd/}" "k8s.io/kubernetes/cmd/kubectl@v$KUBERNETES_VERSION" \
        "go.etcd.io/etcd/server/v3/etcdmain@v$ETCD_VERSION" \
        "sigs.k8s.io/metrics-server/cmd/metrics-server@v$METRICS_SERVER_VERSION"
}

# Its release for these client libraries asks for newer versions of others than Kubernetes was built with.
module_of_coredns() {
    cd "$PROGRAMS/src/coredns"
    [ ! -s go.sum ] || return 0
    echo "module coredns-program" >go.mod
    go get "github.com/coredns/coredns/coremain@v$COREDNS_VERSION" "github.com/coredns/coredns/plugin/kubernetes@v$COREDNS_VERSION"
}

build() {
    local name=$1 package=$2 version=k8s.io/component-base/version minor
    [ ! -x "$BIN/$name" ] || return 0
    minor=${KUBERNETES_VERSION#*.}
    echo "building $name"
    # Under another name until it is whole.
    nice -n 19 go build -trimpath -o "$BIN/.$name" -ldflags "-s -w -X $version.gitVersion=v$KUBERNETES_VERSION \
        -X $version.gitMajor=${KUBERNETES_VERSION%%.*} -X $version.gitMinor=${minor%%.*} -X $version.gitTreeState=clean" "$package"
    mv "$BIN/.$name" "$BIN/$name"
}

main
