#!/usr/bin/env bash
# Proves on a cluster of its own, row by row, that a shop does on Kubernetes what deploy/kubernetes/README.md says.
#
#   tests/kubernetes/proof.sh [--keep] [--program SHOP] [--seconds N] [ROW...]
#
# Without rows, all of them. --keep leaves the cluster up, and finds it again; tests/kubernetes/down.sh ends it.
set -euo pipefail
# shellcheck source=env.sh
source "$(dirname "$0")/env.sh"
ALL=(story scaled-to-0 rollouts nats-restart drain power-off autoscaling settings backup restore validation nfs mutual-tls)
KEEP=
SHOP=${CARGO_TARGET_DIR:-$ROOT/target}/dist/shop
SECONDS_OF_SIEGE=60

main() {
    local rows=()
    while [ $# -gt 0 ]; do
        case $1 in
        --keep) KEEP=1 ;;
        --program) SHOP=$2 && shift ;;
        --seconds) SECONDS_OF_SIEGE=$2 && shift ;;
        *) rows+=("$1") ;;
        esac
        shift
    done
    [ ${#rows[@]} -gt 0 ] || rows=("${ALL[@]}")
    [ -x "$BIN/metrics-server" ] || { echo "the programs of a cluster are not there: tests/kubernetes/build.sh makes them" >&2; exit 1; }
    [ -x "$SHOP" ] || { echo "there is no $SHOP: just dist" >&2; exit 1; }
    [ -n "$KEEP" ] || trap '"$HERE/down.sh"' EXIT
    [ -e "/run/netns/$NAME" ] || begin
    local status=0
    for row in "${rows[@]}"; do
        prove "$row" || status=1
    done
    exit "$status"
}

# A cluster, with disks for whoever claims them, and with the Secrets of a shop.
begin() {
    local began=$SECONDS
    "$HERE/images.sh" "$SHOP"
    "$HERE/up.sh" >/dev/null
    k apply -f "$HERE/metrics.yaml" >/dev/null
    for disk in 1 2 3 4; do
        mkdir -p "$STATE/volumes/$disk"
        disk "$disk" | k apply -f - >/dev/null
    done
    k create namespace shop >/dev/null
    SHOP=$SHOP KUBECTL="$HERE/k.sh" "$ROOT/deploy/kubernetes/secrets.sh" "$STATE/shop" >/dev/null
    echo "the cluster is up after $((SECONDS - began)) s: $(k version 2>/dev/null | sed -n 's/Server Version: /Kubernetes /p'), ${#NODES[@]} nodes"
}

disk() {
    cat <<YAML
apiVersion: v1
kind: PersistentVolume
metadata: {name: disk-$1}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: disks
  local: {path: $STATE/volumes/$1}
  nodeAffinity:
    required:
      nodeSelectorTerms:
        - matchExpressions: [{key: kubernetes.io/os, operator: In, values: [linux]}]
YAML
}

# From a node that stays: the one whose power goes off has one of the three nats-servers.
prove() {
    local from=1
    if [ "$1" = nfs ]; then
        "$HERE/nfs.sh"
    fi
    if [ "$1" = power-off ] || [ "$1" = nfs ]; then
        from=$(k get pods --namespace shop --selector app.kubernetes.io/component=nats \
            --output jsonpath='{range .items[*]}{.spec.nodeName}{"\n"}{end}' | sort | uniq -d | head -1)
        from=${from#node-}
    fi
    in_node "$from" python3 "$HERE/proof.py" --kubectl "$(kubectl_program)" --kubeconfig "$SECRETS/admin.conf" \
        --manifests "$HERE/overlays/full" --schemas "$PROGRAMS/schemas" --power-off "$HERE/down.sh" --power-on "$HERE/node.sh" --seconds "$SECONDS_OF_SIEGE" "$1"
}

main "$@"
