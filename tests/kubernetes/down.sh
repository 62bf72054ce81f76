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
    stop nfs KILL
    for program in scheduler controllers apiserver etcd; do
        stop "$program" TERM
    done
    ip netns del "$NAME" 2>/dev/null
    [ ! -s "$STATE/sysctl" ] || sysctl -qp "$STATE/sysctl"
    rm -rf "${STATE:?}"/{etc,etcd,pid,images,volumes,share,sysctl,shop,nfs*}
    # Mount points of the nodes, where there was nothing before.
    rmdir /run/containerd /var/lib/kubelet /var/lib/cni /var/log/containers 2>/dev/null || true
}

# With the first process of its namespaces all of a node ends, and its mounts go with them.
power_off() {
    local node=$1 tree
    stop "node-$node" KILL
    ip netns del "$NAME-$node" 2>/dev/null
    for tree in /sys/fs/cgroup/*/; do
        [ ! -d "$tree$NAME-$node" ] || wait_for 10 "the processes of $tree$NAME-$node" no_groups "$tree$NAME-$node"
    done
    rm -rf "${STATE:?}/$node"
}

# The last processes of a namespace end a moment after its first one.
no_groups() {
    find "$1" -depth -type d -exec rmdir {} +
}

main "$@"
