#!/usr/bin/env bash
# Makes the authorities, certificates and kubeconfigs of a test cluster, in $STATE/etc.
set -euo pipefail
# shellcheck source=env.sh
source "$(dirname "$0")/env.sh"
umask 077
mkdir -p "$SECRETS"
cd "$SECRETS"
KEY=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)

main() {
    authority ca
    authority front-proxy-ca
    local names="DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:localhost"
    certificate apiserver ca /CN=kube-apiserver "$names,IP:$CONTROL_IP,IP:127.0.0.1,IP:${SERVICES%.0/*}.1"
    certificate apiserver-kubelet ca /O=system:masters/CN=apiserver-kubelet
    certificate front-proxy front-proxy-ca /CN=front-proxy
    user admin /O=system:masters/CN=admin
    user controllers /CN=system:kube-controller-manager
    user scheduler /CN=system:kube-scheduler
    user proxy /CN=system:kube-proxy
    for node in "${NODES[@]}"; do
        user "kubelet-$node" "/O=system:nodes/CN=system:node:node-$node" "DNS:node-$node,IP:$(node_ip "$node")"
    done
    openssl ecparam -name prime256v1 -genkey -noout -out accounts.key
    openssl ec -in accounts.key -pubout -out accounts.pub 2>/dev/null
}

authority() {
    openssl req -x509 "${KEY[@]}" -keyout "$1.key" -out "$1.crt" -days 7 -subj "/CN=$1" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,digitalSignature 2>/dev/null
}

# certificate FILE AUTHORITY SUBJECT [NAMES]
certificate() {
    openssl req "${KEY[@]}" -keyout "$1.key" -out "$1.csr" -subj "$3" 2>/dev/null
    printf 'extendedKeyUsage=serverAuth,clientAuth\n%s\n' "${4:+subjectAltName=$4}" >"$1.ext"
    openssl x509 -req -in "$1.csr" -CA "$2.crt" -CAkey "$2.key" -CAcreateserial -days 7 -extfile "$1.ext" -out "$1.crt" 2>/dev/null
    rm "$1.csr" "$1.ext"
}

# user FILE SUBJECT [NAMES]: with a kubeconfig.
user() {
    certificate "$1" ca "$2" "${3:-}"
    cat >"$1.conf" <<CONF
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://$CONTROL_IP:6443", certificate-authority: $SECRETS/ca.crt}}]
users: [{name: me, user: {client-certificate: $SECRETS/$1.crt, client-key: $SECRETS/$1.key}}]
contexts: [{name: test, context: {cluster: test, user: me}}]
current-context: test
CONF
}

main
