"""All nats-servers and their disks are lost."""

import copy
import json
import os
import time

from rows.full import is_ready_at
from shop import Customer, Rush, demand


def from_backup(cluster):
    """all logs are lost with their disks, and the shop goes on from the backup of a moment ago, as README.md says"""
    with Rush(cluster.address()) as rush:
        time.sleep(5)
    figures = rush.figures()
    backup = cluster.job("backup").strip().splitlines()[-1]
    place = backup.split("the backup is in ")[1].split(":")[0]
    customer, user = Customer(cluster.address()), rush.users[0]
    told = [customer.expect(200, "GET", path) for path in (f"/products/{rush.product}", f"/wallets/{user}", f"/mypages/{user}")]
    late = {"id": f"late-{user}", "user": user, "product": rush.product, "quantity": 1}
    customer.expect(201, "POST", "/orders", late)
    customer.close()
    began = time.monotonic()
    lose_logs(cluster)
    cluster.k("apply", "--kustomize", cluster.options.manifests, "--selector", "app.kubernetes.io/component=nats")
    cluster.wait_for_rollouts(["statefulset/nats"])
    said = cluster.tool("restore", f"--from={place}").strip().splitlines()[-1]
    cluster.k("apply", "--kustomize", cluster.options.manifests)
    cluster.wait_for_rollouts(cluster.workloads())
    cluster.until("the Service leads to a bridge", lambda: is_ready_at(cluster.address()), 60)
    took = round(time.monotonic() - began, 1)
    now = [customer.expect(200, "GET", path) for path in (f"/products/{rush.product}", f"/wallets/{user}", f"/mypages/{user}")]
    demand(now == told, f"before {told}, and after {now}")
    demand(customer.ask("GET", f"/orders/{late['id']}")[0] == 404, "what came after the backup is there")
    cluster.audit()
    customer.expect(201, "POST", "/orders", late)
    return {"backup": backup, "restore": said, "from the loss to all ready again, s": took, **figures, "audit": "clean"}


def lose_logs(cluster):
    """Stops the shop, and takes the nats-servers and their disks away; there are new disks."""
    for workload in cluster.workloads():
        cluster.k("scale", workload, "--replicas=0")
    cluster.k("delete", "statefulset", "nats", "--wait=true")
    gone = [f"data-nats-{number}" for number in range(3)]
    cluster.until("no pod is left but those of tools", lambda: not cluster.pods("nats") and not cluster.pods("host") and not cluster.pods("bridge"))
    cluster.k("delete", "persistentvolumeclaim", *gone)
    for disk in json.loads(cluster.k("get", "persistentvolumes", "--output", "json"))["items"]:
        if disk["spec"].get("claimRef", {}).get("name") in gone:
            cluster.k("delete", "persistentvolume", disk["metadata"]["name"])
            spec = copy.deepcopy(disk["spec"])
            spec.pop("claimRef")
            spec["local"]["path"] += "n"
            os.makedirs(spec["local"]["path"])
            cluster.apply({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"{disk['metadata']['name']}n"}, "spec": spec})
