"""A volume that pods on several nodes share."""

import copy
import json
import re
import subprocess
import time
import uuid

from rows.nodes import all_ready, node_with_one_server, spread, until_known
from shop import Rush, demand

RESTORED = re.compile(r"(\S+) is restored from the snapshot up to (\d+), of \d+ bytes from (\S+)")


def nfs(cluster):
    """snapshots and backups on a volume of kind nfs: a file of one replica is read by the other, a host whose node is lost begins again from it though its log was cut, and no checkpoints are kept there"""
    cluster.k("apply", "--kustomize", f"{cluster.options.manifests}/../shared")
    cluster.wait_for_rollouts(["statefulset/nats", *cluster.workloads()])
    nodes = [one["metadata"]["name"] for one in json.loads(cluster.k("get", "nodes", "--output", "json"))["items"]]
    note = uuid.uuid4().hex
    say(cluster, nodes[0], f"printf %s {note} >/shared/{note}")
    read = say(cluster, nodes[1], f"read -r line </shared/{note}; echo $line")
    demand(read.strip() == note, f"{nodes[0]} wrote {note}, and {nodes[1]} read {read}")
    refusal = checkpoints_there(cluster)
    lost = node_with_one_server(cluster)
    with Rush(cluster.address()) as rush:
        taken = cluster.until("snapshots stand for what is in the log of orders", lambda: may_be_cut(cluster) > 0, 600)
        cut = cluster.tool("trim", "--margin=0")
        began = first_of(cluster, "order")
        demand(began > 1, f"the log of orders begins at {began} still: {cut}")
        moved = lose(cluster, lost)
    figures = rush.figures()
    restored = [line for one in cluster.pods("host") for line in RESTORED.findall(cluster.k("logs", one["metadata"]["name"]))]
    demand(any(place.startswith("order/") for place, _, _ in restored), f"no partition of orders came from a snapshot: {restored}")
    demand(all(source.startswith("/shared/") for _, _, source in restored), f"snapshots are from elsewhere: {restored}")
    cluster.audit()
    power_on(cluster, lost)
    backup = cluster.job("backup").strip().splitlines()[-1]
    place = re.search(r"/shared/backups/[^:]+", backup)
    demand(place, f"the backup is elsewhere: {backup}")
    whole = cluster.tool("restore", "--dry-run", f"--from={place[0]}")
    cluster.k("apply", "--kustomize", cluster.options.manifests)
    cluster.wait_for_rollouts(cluster.workloads())
    spread(cluster)
    cluster.audit()
    return {
        "written on": nodes[0], "read on": nodes[1], "checkpoints there": refusal, "snapshots after, s": taken,
        "log of orders began at": began, "node lost": lost, "ready elsewhere after, s": moved,
        "partitions from snapshots": len(restored), "backup": backup, "read again": whole.strip().splitlines()[-1], **figures, "audit": "clean",
    }


def say(cluster, node, script):
    """Runs a script with the volume at hand on a node; what it printed."""
    security = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "sh", "image": "test.local/sh:1", "args": ["-c", script], "securityContext": security,
        "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
    }
    pod = {
        "restartPolicy": "Never", "nodeName": node, "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container], "volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": "shared"}}],
    }
    return run(cluster, pod)


def checkpoints_there(cluster):
    """A host that is told to keep its checkpoints on the volume says why not, and ends."""
    host = json.loads(cluster.k("get", "statefulset", "order-host", "--output", "json"))
    pod = copy.deepcopy(host["spec"]["template"]["spec"])
    pod["restartPolicy"] = "Never"
    container = pod["containers"][0]
    container["args"] = ["--data-dir=/shared/checkpoints" if arg.startswith("--data-dir") else arg for arg in container["args"]]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        container.pop(probe)
    said = run(cluster, pod, should_succeed=False)
    found = [line for line in said.splitlines() if "the data folder /shared/checkpoints" in line and " is on NFS" in line]
    demand(found, f"a host with its checkpoints on NFS says {said[-1500:]}")
    return found[-1].strip()


def run(cluster, pod, should_succeed=True):
    name = f"once-{uuid.uuid4().hex[:6]}"
    cluster.apply({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {"backoffLimit": 0, "template": {"metadata": {"labels": {"app.kubernetes.io/name": "shop", "app.kubernetes.io/component": "tools"}}, "spec": pod}},
    })
    return cluster.printed(name, should_succeed)


def may_be_cut(cluster):
    """How many records of orders snapshots stand for."""
    said = re.search(r"^order\s+\d+\.\.\d+: (\d+) records? would go", cluster.tool("trim", "--dry-run", "--margin=0"), re.MULTILINE)
    return int(said[1]) if said else 0


def first_of(cluster, kind):
    said = re.search(rf"^{kind}\s+(\d+)\.\.\d+", cluster.tool("trim", "--dry-run", "--margin=0"), re.MULTILINE)
    demand(said, f"trim does not say where the log of {kind} begins")
    return int(said[1])


def lose(cluster, node):
    time.sleep(2)
    cut = time.monotonic()
    subprocess.run([cluster.options.power_off, node.rpartition("-")[2]], check=True)
    until_known(cluster, node)
    cluster.until("all is ready elsewhere", lambda: all_ready(cluster, without=node), 600)
    return round(time.monotonic() - cut, 1)


def power_on(cluster, node):
    subprocess.run([cluster.options.power_on, node.rpartition("-")[2]], check=True)
    cluster.k("taint", "node", node, "node.kubernetes.io/out-of-service-")
    cluster.until("the node is back", lambda: " Ready" in cluster.k("get", "node", node))
