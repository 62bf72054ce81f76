#!/bin/sh
# Fills FOLDER with all that an image of PROGRAM needs, and nothing else: the program as /NAME, the shared libraries that
# it is linked to, a user who is not root, and the authorities that this machine trusts, for buckets.
#
#   deploy/image/root.sh PROGRAM FOLDER [NAME]
set -eu
[ $# -ge 2 ] || { echo "usage: $0 PROGRAM FOLDER [NAME]" >&2; exit 2; }
program=$1 folder=$2 name=${3:-$(basename "$1")}
# The user 65532 is who distroless images run as, too.
USER_ID=65532

mkdir -p "$folder/etc"
install -D -m 755 "$program" "$folder/$name"
# Names of functions for backtraces stay, what debuggers want goes.
if command -v strip >/dev/null 2>&1; then
    strip --strip-debug "$folder/$name" 2>/dev/null || true
fi
# The loader and the libraries, under the names by which they are looked for. A static program has none.
{ ldd "$program" 2>/dev/null || true; } | sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p; s/^[[:space:]]*\(\/[^ ]*\) (.*/\1/p' |
    while read -r library; do
        install -D -m 755 "$library" "$folder$library"
    done
authorities=/etc/ssl/certs/ca-certificates.crt
[ ! -e "$authorities" ] || install -D -m 644 "$authorities" "$folder$authorities"
echo "shop:x:$USER_ID:$USER_ID:shop:/:/sbin/nologin" >"$folder/etc/passwd"
echo "shop:x:$USER_ID:" >"$folder/etc/group"
