#!/bin/sh
# Makes the keys and certificates that components/keys mounts, and puts them into the cluster as Secrets, once: a
# folder that is there is used again.
#
#   deploy/kubernetes/secrets.sh FOLDER [NAMESPACE]
#
# $SHOP is the program (target/release/shop), $KUBECTL how the cluster is asked (kubectl). FOLDER holds every secret of
# the shop afterwards: keep it where backups of secrets are, or delete it.
set -eu
umask 077
[ $# -ge 1 ] || { echo "usage: $0 FOLDER [NAMESPACE]" >&2; exit 2; }
folder=$1 namespace=${2:-shop}
here=$(cd "$(dirname "$0")" && pwd)
shop=${SHOP:-$here/../../target/release/shop}
kubectl=${KUBECTL:-kubectl}

main() {
    mkdir -p "$folder"
    [ -e "$folder/keys/cluster.conf" ] || "$shop" nats keygen --cluster --out "$folder/keys" --certificates /etc/nats >/dev/null
    [ -e "$folder/server.crt" ] || certificates
    apply nats-cluster --from-file="$folder/keys/cluster.conf"
    apply nats-tls --from-file="$folder/ca.crt" --from-file="$folder/server.crt" --from-file="$folder/server.key"
    apply nats-ca --from-file="$folder/ca.crt"
    apply shop-keys --from-file="$folder/keys/host.nk" --from-file="$folder/keys/bridge.nk" \
        --from-file="$folder/keys/reader.nk" --from-file="$folder/keys/operator.nk"
}

# One certificate for all three servers, under the names by which clients and the servers themselves call them.
certificates() {
    names=
    for server in nats-0 nats-1 nats-2; do
        names="$names $server.nats $server.nats.$namespace.svc.cluster.local"
    done
    # shellcheck disable=SC2086
    (cd "$folder" && "$here/../../nats/server/certificates.sh" $names 2>openssl.log) || { cat "$folder/openssl.log" >&2; exit 1; }
}

apply() {
    name=$1
    shift
    $kubectl create secret generic "$name" --namespace "$namespace" "$@" --dry-run=client -o yaml | $kubectl apply -f -
}

main
