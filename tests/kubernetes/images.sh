#!/usr/bin/env bash
# Makes the images of a test cluster of programs that are built already; no registry is asked. The shop is there twice,
# as two versions that differ in a label.
#
#   tests/kubernetes/images.sh SHOP
set -euo pipefail
# shellcheck source=env.sh
source "$(dirname "$0")/env.sh"
SHOP=$1

MADE=()

main() {
    mkdir -p "$STATE/images"
    image "$SHOP" shop:1 /shop
    image "$SHOP" shop:2 /shop
    image "$("$ROOT/nats/install.sh")" nats:1 /nats-server
    image "$BIN/coredns" coredns:1 /coredns
    # Holds the namespaces of a pod, and has nothing to do.
    image "$(command -v sleep)" pause:1 /sleep infinity
    # For pods of customers, and of those who are none.
    image "$(command -v dash)" sh:1 /sh
    image "$(command -v curl)" curl:1 /curl
    [ ! -x "$BIN/envoy" ] || image "$BIN/envoy" envoy:1 /envoy
    [ ! -x "$BIN/metrics-server" ] || image "$BIN/metrics-server" metrics-server:1 /metrics-server
    local one
    for one in "${MADE[@]}"; do
        wait "$one"
    done
}

image() {
    local program=$1 name=$2
    shift 2
    "$ROOT/deploy/image/oci.sh" "$program" "test.local/$name" "$STATE/images/${name/:/-}.tar" "$@" &
    MADE+=($!)
}

main
