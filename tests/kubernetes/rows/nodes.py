"""What is under the shop goes away, on purpose or not."""

import subprocess
import time

from rows.scale import is_ready
from shop import Rush, demand


def nats_restart(cluster):
    """the three nats-servers are restarted one by one while customers order: nothing is lost, no bridge is left out"""
    before = servers(cluster)
    least = 99
    with Rush(cluster.address()) as rush:
        time.sleep(2)
        cluster.k("rollout", "restart", "statefulset/nats")

        def restarted():
            nonlocal least
            least = min(least, len([one for one in cluster.pods("bridge") if is_ready(one)]))
            now = servers(cluster)
            return len(now) == 3 and not set(now.values()) & set(before.values()) and all_ready(cluster)
        took = cluster.until("all three are restarted", restarted, 600)
        time.sleep(2)
    figures = rush.figures()
    demand(least >= 1, "there was a moment without a bridge that was ready")
    demand(not any("Refused" in what for what in rush.trouble), f"connections were refused: {figures}")
    cluster.audit()
    return {"seconds until all three were restarted": took, "fewest bridges ready": least, **figures, "audit": "clean"}


def drain(cluster):
    """a node is emptied under the disruption budgets while customers order"""
    node = node_with_most_pods(cluster)
    before = len(on(cluster, node))
    with Rush(cluster.address()) as rush:
        time.sleep(2)
        began = time.monotonic()
        cluster.k("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=500s", patience=540)
        took = time.monotonic() - began
        demand(not on(cluster, node), f"pods are left on {node}")
        back = cluster.until("all is ready elsewhere", lambda: all_ready(cluster))
    figures = rush.figures()
    cluster.k("uncordon", node)
    cluster.audit()
    spread(cluster)
    return {"node": node, "pods moved": before, "drained in, s": round(took, 1), "all ready after, s": back, **figures, "audit": "clean"}


def power_off(cluster):
    """a node with one of the three nats-servers ends at once, as by a power cut, while customers order"""
    node = node_with_one_server(cluster)
    number = node.rpartition("-")[2]
    with Rush(cluster.address()) as rush:
        time.sleep(2)
        subprocess.run([cluster.options.power_off, number], check=True)
        cut = time.monotonic()
        noticed = until_known(cluster, node)
        moved = cluster.until("all is ready elsewhere", lambda: all_ready(cluster, without=node), 600)
        took = time.monotonic() - cut
        time.sleep(2)
    figures = rush.figures()
    cluster.audit()
    subprocess.run([cluster.options.power_on, number], check=True)
    cluster.k("taint", "node", node, "node.kubernetes.io/out-of-service-")
    cluster.until("the node is back", lambda: " Ready" in cluster.k("get", "node", node))
    spread(cluster)
    return {"node": node, "known after, s": noticed, "ready elsewhere after, s": round(took, 1), "of that moving, s": moved, **figures, "audit": "clean"}


def servers(cluster):
    return {one["metadata"]["name"]: one["metadata"]["uid"] for one in cluster.pods("nats")}


def all_ready(cluster, without=None):
    """Whether there are as many pods as there are to be, all of them ready, and none on a node that is away."""
    pods = [one for one in cluster.pods() if one["metadata"]["labels"]["app.kubernetes.io/component"] != "tools"]
    wanted = sum(one["spec"]["replicas"] for one in cluster.objects("statefulsets") + cluster.objects("deployments"))
    return len(pods) == wanted and all(is_ready(one) and one["spec"].get("nodeName") != without for one in pods)


def until_known(cluster, node):
    """Waits until Kubernetes knows that a node is away, and says what an operator says who knows that it is off: its pods
    may run elsewhere."""
    took = cluster.until("the node is known to be away", lambda: "NotReady" in cluster.k("get", "node", node))
    cluster.k("taint", "node", node, "node.kubernetes.io/out-of-service=off:NoExecute")
    return took


def spread(cluster):
    """Kubernetes moves no pod to a node that is back, so that an operator has to: here before the next row."""
    servers_on = [one["spec"]["nodeName"] for one in cluster.pods("nats")]
    if len(set(servers_on)) == 1:
        cluster.k("delete", "pod", cluster.pods("nats")[0]["metadata"]["name"])
        cluster.until("the nats-servers are ready", lambda: all_ready(cluster))
    for workload in cluster.workloads():
        cluster.k("rollout", "restart", workload)
    cluster.wait_for_rollouts(cluster.workloads())


def on(cluster, node):
    pods = [one for one in cluster.pods() if one["status"]["phase"] not in ("Succeeded", "Failed")]
    return [one for one in pods if one["spec"].get("nodeName") == node]


def node_with_most_pods(cluster):
    nodes = {one["spec"]["nodeName"] for one in cluster.pods()}
    return max(nodes, key=lambda node: len(on(cluster, node)))


def node_with_one_server(cluster):
    places = [one["spec"]["nodeName"] for one in cluster.pods("nats")]
    alone = [node for node in places if places.count(node) == 1]
    demand(alone, f"the nats-servers are on {places}")
    return alone[0]
