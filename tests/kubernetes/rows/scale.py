"""More hosts, and fewer, and none."""

import http.client
import re
import subprocess
import time

from shop import Customer, Failed, Rush, demand


def to_0(cluster):
    """ordering scaled to 0: 503 within a second, my page answers; scaled back, ordering works"""
    order_host = workload_of(cluster, "order")
    address = cluster.address()
    user, product = f"bob-{time.time_ns()}", f"plum-{time.time_ns()}"
    customer = Customer(address)
    customer.expect(201, "POST", "/products", {"id": product, "name": "plum", "price": 1, "stock": 9})
    customer.expect(201, "POST", "/wallets", {"id": user, "balance": 9})
    customer.expect(201, "POST", "/orders", {"user": user, "product": product, "quantity": 1})
    cluster.k("scale", order_host, "--replicas=0")
    cluster.until("no pod for orders is left", lambda: not cluster.pods("host", "order"))
    # Whoever does not say how long to wait for: the bridge knows that no host is there.
    order = {"user": user, "product": product, "quantity": 1, "unit_price": 1}
    began = time.monotonic()
    status, answer = Customer(address, wait=0).ask("POST", "/orders", order)
    took = time.monotonic() - began
    demand((status, answer["code"]) == (503, "unavailable"), f"an order is answered {status}: {answer}")
    demand(took < 1, f"it is refused after {took:.2f} s")
    page = customer.expect(200, "GET", f"/mypages/{user}")["items"]
    demand(len(page) == 1 and page[0]["status"] == "CONFIRMED", f"my page is {page}")
    ready = [one["metadata"]["name"] for one in cluster.pods("bridge") if is_ready(one)]
    demand(len(ready) >= 2, f"only {ready} are ready")
    cluster.k("scale", order_host, "--replicas=2")
    cluster.wait_for_rollouts([order_host])
    customer.expect(201, "POST", "/orders", {"user": user, "product": product, "quantity": 1})
    stock = customer.expect(200, "GET", f"/products/{product}")["stock"]
    demand(stock == 7, f"{stock} are left of 9 after two orders")
    cluster.audit()
    return {"ordering without hosts": f"503 after {took * 1000:.0f} ms", "bridges ready meanwhile": len(ready), "audit": "clean"}


def by_itself(cluster):
    """the autoscaler takes the order hosts from 1 to 3 under load and back to 1, and nothing is lost"""
    autoscaling = f"{cluster.options.manifests}/../autoscaling"
    cluster.k("apply", "--kustomize", autoscaling)
    order_host = workload_of(cluster, "order")
    cluster.k("scale", order_host, "--replicas=1")
    cluster.until("one host takes orders", lambda: replicas(cluster) == 1)
    cluster.until("the autoscaler has numbers", lambda: has_numbers(cluster))
    began, seen = time.monotonic(), []
    owned = {"before": settled_owners(cluster, 1)}
    with Rush(cluster.address(), customers=16) as rush:
        def grown():
            note(seen, began, replicas(cluster))
            return replicas(cluster) == 3
        up = cluster.until("there are three hosts", grown)
        owned["under load"] = settled_owners(cluster, 3)
        time.sleep(20)
    figures = rush.figures()

    def shrunk():
        note(seen, began, replicas(cluster))
        return replicas(cluster) == 1
    down = cluster.until("there is one host again", shrunk, 600)
    owned["after"] = settled_owners(cluster, 1)
    cluster.audit()
    cluster.k("delete", "horizontalpodautoscaler", "--all")
    cluster.k("apply", "--kustomize", cluster.options.manifests)
    cluster.wait_for_rollouts(cluster.workloads())
    return {"seconds from load to three": up, "seconds from quiet to one": down, "ready hosts, by seconds": seen, "partitions owned": owned, **figures, "audit": "clean"}


def settled_owners(cluster, hosts):
    """Which partitions of orders each host owns, once each partition has one owner and each host has some."""
    found = {}

    def are_settled():
        found.clear()
        found.update(owners(cluster))
        owned = sorted(partition for partitions in found.values() for partition in partitions)
        return len(found) == hosts and all(found.values()) and owned == list(range(len(owned)))
    cluster.until(f"{hosts} hosts share the partitions of orders", are_settled, 60)
    return found


def owners(cluster):
    found = {}
    for one in cluster.pods("host", "order"):
        if not is_ready(one):
            continue
        try:
            connection = http.client.HTTPConnection(one["status"]["podIP"], 9090, timeout=5)
            connection.request("GET", "/metrics")
            page = connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException):
            return {}
        owned = re.findall(r'^shop_host_partition_owned\{kind="order",partition="(\d+)"\} 1$', page, re.MULTILINE)
        found[one["metadata"]["name"]] = sorted(map(int, owned))
    return found


def workload_of(cluster, kind):
    found = cluster.objects("statefulsets", f"shop/kind={kind}") or cluster.objects("statefulsets", "app.kubernetes.io/component=host")
    names = [one["metadata"]["name"] for one in found]
    chosen = [name for name in names if name == f"{kind}-host"] or names
    demand(chosen, f"there is no workload for {kind}")
    return f"statefulset/{chosen[0]}"


def replicas(cluster):
    return len([one for one in cluster.pods("host", "order") if is_ready(one)])


def has_numbers(cluster):
    try:
        return "<unknown>" not in cluster.k("get", "horizontalpodautoscaler")
    except (Failed, subprocess.TimeoutExpired):
        return False


def note(seen, began, count):
    if not seen or seen[-1][1] != count:
        seen.append((round(time.monotonic() - began), count))


def is_ready(pod):
    conditions = pod["status"].get("conditions", [])
    return "deletionTimestamp" not in pod["metadata"] and any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
