#!/usr/bin/env bash
# Starts a cluster from the programs that build.sh made: a control plane and two nodes, with the images in
# $STATE/images on both of them, DNS for Services, and numbers for autoscalers.
set -euo pipefail
# shellcheck source=env.sh
source "$(dirname "$0")/env.sh"

main() {
    mkdir -p "$STATE"/{etc,log,pid,images,volumes}
    "$HERE/certificates.sh"
    # kubelet sets these for the whole machine; down.sh puts them back.
    [ -s "$STATE/sysctl" ] || sysctl vm.overcommit_memory kernel.panic kernel.panic_on_oops | tr -d ' ' >"$STATE/sysctl"
    network
    control_plane
    for node in "${NODES[@]}"; do
        "$HERE/node.sh" "$node"
    done
    for node in "${NODES[@]}"; do
        wait_for 120 "node-$node" k wait --for=condition=Ready "node/node-$node" --timeout=1s
    done
    k apply -f "$HERE/system.yaml" >/dev/null
    k rollout status --namespace kube-system deployment/coredns --timeout=120s >/dev/null
}

network() {
    ip netns add "$NAME"
    in_control ip link set lo up
    in_control ip link add nodes type bridge
    in_control ip addr add "$CONTROL_IP/24" dev nodes
    in_control ip link set nodes up
    in_control sysctl -qw net.ipv4.ip_forward=1
}

control_plane() {
    local etcd=http://127.0.0.1:2379 peer=http://127.0.0.1:2380 s=$SECRETS
    # A cluster that lives for minutes need not outlive a power cut.
    start etcd "$BIN/etcd" --name control --data-dir "$STATE/etcd" --unsafe-no-fsync --listen-client-urls $etcd \
        --advertise-client-urls $etcd --listen-peer-urls $peer --initial-advertise-peer-urls $peer --initial-cluster control=$peer
    start apiserver "$BIN/kube-apiserver" --etcd-servers=$etcd --advertise-address="$CONTROL_IP" --secure-port=6443 \
        --service-cluster-ip-range="$SERVICES" --authorization-mode=Node,RBAC --anonymous-auth=false \
        --enable-admission-plugins=NodeRestriction --allow-privileged=false --enable-aggregator-routing=true \
        --client-ca-file="$s/ca.crt" --tls-cert-file="$s/apiserver.crt" --tls-private-key-file="$s/apiserver.key" \
        --kubelet-certificate-authority="$s/ca.crt" --kubelet-client-certificate="$s/apiserver-kubelet.crt" \
        --kubelet-client-key="$s/apiserver-kubelet.key" --kubelet-preferred-address-types=InternalIP \
        --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$s/accounts.pub" \
        --service-account-signing-key-file="$s/accounts.key" --requestheader-client-ca-file="$s/front-proxy-ca.crt" \
        --requestheader-allowed-names=front-proxy --requestheader-username-headers=X-Remote-User \
        --requestheader-group-headers=X-Remote-Group --requestheader-extra-headers-prefix=X-Remote-Extra- \
        --proxy-client-cert-file="$s/front-proxy.crt" --proxy-client-key-file="$s/front-proxy.key"
    wait_for 120 "the API server" k get --raw /readyz
    local as=(--kubeconfig="$s/controllers.conf" --authentication-kubeconfig="$s/controllers.conf" --authorization-kubeconfig="$s/controllers.conf")
    start controllers "$BIN/kube-controller-manager" "${as[@]}" --bind-address=127.0.0.1 --leader-elect=false \
        --use-service-account-credentials=true --root-ca-file="$s/ca.crt" --service-account-private-key-file="$s/accounts.key" \
        --node-monitor-grace-period=20s --horizontal-pod-autoscaler-sync-period=5s \
        --horizontal-pod-autoscaler-initial-readiness-delay=10s --horizontal-pod-autoscaler-cpu-initialization-period=20s
    as=(--kubeconfig="$s/scheduler.conf" --authentication-kubeconfig="$s/scheduler.conf" --authorization-kubeconfig="$s/scheduler.conf")
    start scheduler "$BIN/kube-scheduler" "${as[@]}" --bind-address=127.0.0.1 --leader-elect=false
    wait_for 60 "the default account" k get serviceaccount default
}

main
