#!/bin/sh
# Makes an image of a program that is built already, as the Containerfile would, where there is neither a daemon nor a
# registry: OUT is a tar file with an OCI layout.
#
#   deploy/image/oci.sh target/dist/shop shop:0.1.0 OUT [ENTRYPOINT…]
set -eu
[ $# -ge 3 ] || { echo "usage: $0 PROGRAM NAME OUT [ENTRYPOINT…]" >&2; exit 2; }
program=$1 name=$2 out=$3
shift 3
[ $# -gt 0 ] || set -- "/$(basename "$program")"
here=$(cd "$(dirname "$0")" && pwd)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
trap 'exit 130' INT TERM HUP
"$here/root.sh" "$program" "$root" "${1#/}"
revision=$(git -C "$here" rev-parse HEAD 2>/dev/null || echo unknown)
python3 "$here/layout.py" --name "$name" --out "$out" \
    --label "org.opencontainers.image.title=$(basename "$program")" \
    --label "org.opencontainers.image.version=${name##*:}" \
    --label "org.opencontainers.image.revision=$revision" \
    --label "org.opencontainers.image.licenses=Apache-2.0" \
    --label "org.opencontainers.image.description=a wallet-funded commerce core on NATS JetStream" \
    --entrypoint "$@" -- "$root"
