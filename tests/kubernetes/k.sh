#!/usr/bin/env bash
# kubectl for the test cluster that runs.
set -euo pipefail
# shellcheck source=env.sh
source "$(dirname "$0")/env.sh"
k "$@"
