#!/usr/bin/env bash
# Ends a cluster and takes away all of it but the programs in the cache and what was logged. With the number of a node,
# ends that node alone, as a power cut would.
#
#   tests/kubernetes/down.sh [NUMBER]
set -uo pipefail
# shellcheck source=env.sh
source "$(dirname "$0")/env.sh"

main() {
    if [ $# -gt 0 ]; then
        power_off "$1"
        return
    fi
    for node in "${NODES[@]}"; do
        power_off "$node"
    done
    for program in scheduler controllers apiserver etcd; do
        stop "$program" TERM
    done
    ip netns del "$NAME" 2>/dev/null
    [ ! -s "$STATE/sysctl" ] || sysctl -qp "$STATE/sysctl"
    rm -rf "${STATE:?}"/{etc,etcd,pid,images,volumes,sysctl,shop}
}

# With the first process of its namespaces all of a node ends, and its mounts go with them.
power_off() {
    local node=$1 tree
    stop "node-$node" KILL
    ip netns del "$NAME-$node" 2>/dev/null
    for tree in /sys/fs/cgroup/*/; do
        [ ! -d "$tree$NAME-$node" ] || find "$tree$NAME-$node" -depth -type d -exec rmdir {} + 2>/dev/null
    done
    rm -rf "${STATE:?}/$node"
}

main "$@"
