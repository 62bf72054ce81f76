#!/usr/bin/env python3
"""What must hold of a shop on Kubernetes: each row tries it on a cluster that runs, prints what it saw, and fails where it
is not so. proof.sh starts it in a node's network, where the addresses of Services lead somewhere.

    proof.py [--kubectl PROGRAM] [--kubeconfig FILE] --manifests FOLDER ROW...
"""

import argparse
import http.client
import json
import subprocess
import sys
import time

import rows.change
import rows.full
import rows.mesh
import rows.nodes
import rows.restore
import rows.rollout
import rows.scale
import rows.shared
from shop import Cluster, Failed

ROWS = {
    "story": rows.full.story,
    "scaled-to-0": rows.scale.to_0,
    "rollouts": rows.rollout.under_siege,
    "autoscaling": rows.scale.by_itself,
    "nats-restart": rows.nodes.nats_restart,
    "drain": rows.nodes.drain,
    "power-off": rows.nodes.power_off,
    "settings": rows.change.settings,
    "backup": rows.full.backup,
    "restore": rows.restore.from_backup,
    "validation": rows.change.validation,
    "nfs": rows.shared.nfs,
    "mutual-tls": rows.mesh.mutual_tls,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kubectl", default="kubectl")
    parser.add_argument("--kubeconfig")
    parser.add_argument("--manifests", required=True, help="the overlay that is applied")
    parser.add_argument("--schemas", help="a folder with schemas of KEDA, Istio and the Gateway API")
    parser.add_argument("--power-off", help="the program that ends a node at once, and is given its number")
    parser.add_argument("--power-on", help="the one that starts it again")
    parser.add_argument("--seconds", type=int, default=60, help="how long a siege takes at least")
    parser.add_argument("rows", nargs="+", choices=ROWS, metavar="ROW", help=", ".join(ROWS))
    options = parser.parse_args()
    cluster, failed = Cluster(options), []
    for name in options.rows:
        print(f"\n== {name}: {ROWS[name].__doc__}", flush=True)
        began = time.monotonic()
        try:
            seen = ROWS[name](cluster)
            print(json.dumps(seen, indent=2, ensure_ascii=False))
            verdict = "holds"
        except (Failed, OSError, http.client.HTTPException, ValueError, LookupError, subprocess.SubprocessError) as failure:
            print(f"FAILED: {type(failure).__name__}: {failure}")
            cluster.show()
            failed.append(name)
            verdict = "does not hold"
        print(f"== {name} {verdict}, after {time.monotonic() - began:.0f} s", flush=True)
    print(f"\n{len(options.rows) - len(failed)} passed, {len(failed)} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
