#!/usr/bin/env bash
# Tries a shop on a cluster of yours: applies overlays/small in a namespace of its own, waits, orders ten apples, and
# takes all of it away again.
#
#   deploy/kubernetes/try.sh IMAGE [CONTEXT]
#
# IMAGE is one that the cluster can pull, or has (kind load docker-image, minikube image load). The cluster needs a
# StorageClass that is the default one. KEEP=1 leaves the shop there.
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: $0 IMAGE [CONTEXT]" >&2; exit 2; }
IMAGE=$1
KUBECTL=(kubectl ${2:+--context "$2"})
HERE=$(cd "$(dirname "$0")" && pwd)
NAMESPACE=shop
FORWARD=

main() {
    if "${KUBECTL[@]}" get namespace "$NAMESPACE" >/dev/null 2>&1; then
        echo "there is a namespace $NAMESPACE on this cluster already: it is left alone" >&2
        exit 1
    fi
    trap clean EXIT
    # kustomize takes no options for what it makes, so that the image is put in afterwards.
    "${KUBECTL[@]}" kustomize "$HERE/overlays/small" | sed "s|image: shop:.*|image: $IMAGE|" | "${KUBECTL[@]}" apply -f - >/dev/null
    for workload in statefulset/nats statefulset/host deployment/bridge; do
        "${KUBECTL[@]}" --namespace "$NAMESPACE" rollout status "$workload" --timeout=600s
    done
    forward
    story
}

# The address of a bridge on this machine, in $HTTP.
forward() {
    local said
    said=$(mktemp)
    "${KUBECTL[@]}" --namespace "$NAMESPACE" port-forward service/shop :80 >"$said" 2>&1 &
    FORWARD=$!
    for _ in $(seq 100); do
        HTTP=$(sed -n 's/^Forwarding from \(127.0.0.1:[0-9]*\).*/http:\/\/\1/p' "$said")
        [ -z "$HTTP" ] || break
        sleep 0.2
    done
    rm "$said"
    [ -n "$HTTP" ] || { echo "no port could be forwarded to the shop" >&2; exit 1; }
}

story() {
    ask /products '{"id":"apple","name":"apple","price":1000,"stock":1000}' '"stock":1000'
    ask /wallets '{"id":"alice","balance":999999}' '"balance":999999'
    ask /orders '{"id":"o-1","user":"alice","product":"apple","quantity":10}' '"status":"CONFIRMED"'
    ask /wallets/alice '' '"balance":989999'
    ask /products/apple '' '"stock":990'
    ask /orders/o-1/cancel '{}' '"status":"CANCELLED"'
    ask /wallets/alice '' '"balance":999999'
    echo "ten apples were ordered, and cancelled: every number is as it should be"
}

# ask PATH BODY EXPECTED
ask() {
    local answer
    answer=$(curl -sS "$HTTP$1" ${2:+-H 'Content-Type: application/json' -d "$2"})
    echo "$1  $answer"
    [[ $answer == *"$3"* ]] || { echo "expected $3" >&2; exit 1; }
}

clean() {
    [ -z "$FORWARD" ] || kill "$FORWARD" 2>/dev/null || true
    if [ -z "${KEEP:-}" ]; then
        "${KUBECTL[@]}" delete namespace "$NAMESPACE" --ignore-not-found --wait=true >/dev/null || true
    fi
}

main
