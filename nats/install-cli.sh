#!/bin/sh
# Prints the path of the official `nats` command line tool on stdout; everything else goes to
# stderr. Only tests need it, and they skip themselves, visibly, where it cannot be had.
#
# In this order: `nats` on the PATH, the cache folder, `go install`.
set -eu

VERSION=0.5.1
CACHE="${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/shop/natscli-$VERSION"

main() {
    if command -v nats >/dev/null 2>&1; then
        command -v nats
    elif [ -x "$CACHE/nats" ] || from_go; then
        echo "$CACHE/nats"
    else
        say "found no nats command and could not build one; get it with \`brew install nats-io/nats-tools/nats\`,
  from https://github.com/nats-io/natscli/releases or with \`go install github.com/nats-io/natscli/nats@v$VERSION\`"
        exit 1
    fi
}

from_go() {
    command -v go >/dev/null 2>&1 || return 1
    say "building the nats command $VERSION with go install (a minute or two, once)"
    mkdir -p "$CACHE" && temp=$(mktemp -d "$CACHE/tmp.XXXXXX") || return 1
    trap 'rm -rf "$temp"' EXIT
    trap 'exit 130' INT TERM HUP
    GOBIN="$temp" go install "github.com/nats-io/natscli/nats@v$VERSION" >&2 || return 1
    # A rename is atomic, so that two runs at once are harmless.
    mv -f "$temp/nats" "$CACHE/nats"
}

say() {
    echo "nats/install-cli.sh: $*" >&2
}

main
