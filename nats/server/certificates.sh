#!/bin/sh
# Makes what cluster.conf wants for TLS, with openssl, in the folder where it is called: ca.crt, which hosts, bridges
# and tools are given as --nats-ca, and server.crt with server.key, good for all of the names and addresses given.
#
#   nats/server/certificates.sh nats-1 nats-2 nats-3 10.0.0.1 10.0.0.2 10.0.0.3
#
# ca.key, which vouches for servers, is not needed again before there is a new one, or after two years: keep it away
# from all of these machines.
set -eu
umask 077
if [ $# -eq 0 ]; then
    echo "usage: $0 NAME_OR_ADDRESS..." >&2
    exit 2
fi
names=
for name in "$@"; do
    case $name in
    *:*) names="$names,IP:$name" ;;
    *[!0-9.]*) names="$names,DNS:$name" ;;
    *) names="$names,IP:$name" ;;
    esac
done
key="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
if [ ! -e ca.key ]; then
    # shellcheck disable=SC2086
    openssl req -x509 $key -keyout ca.key -out ca.crt -days 3650 -subj "/CN=shop nats CA" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
fi
# shellcheck disable=SC2086
openssl req $key -keyout server.key -out server.csr -subj "/CN=$1"
printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n' "${names#,}" >server.ext
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 730 -extfile server.ext -out server.crt
rm server.csr server.ext
