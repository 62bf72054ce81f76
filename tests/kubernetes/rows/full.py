"""The whole of it: applied, and used as in the README."""

import http.client
import time
import uuid

from shop import KINDS, Customer, demand


def story(cluster):
    """apply, wait until all is ready, and a customer's story through the Service: every number is exact"""
    # Where a shop is there already, the time says nothing of how long one takes to come.
    is_new = not cluster.objects("statefulsets")
    began = time.monotonic()
    cluster.k("apply", "--kustomize", cluster.options.manifests)
    workloads = ["statefulset/nats", *cluster.workloads()]
    cluster.wait_for_rollouts(workloads)
    ready = round(time.monotonic() - began, 1)
    customer = Customer(cluster.address())
    # Two pods of each kind are ready, and the Service may still be on its way to this node.
    cluster.until("the Service leads to a bridge", lambda: is_ready_at(cluster.address()), 30)
    play(customer, uuid.uuid4().hex[:8])
    report = cluster.audit()
    return {
        "seconds from apply to ready" if is_new else "applied once more, all ready after, s": ready,
        "workloads": sorted(workloads),
        "pods": len(cluster.pods()),
        "records in the logs": sum(report["kinds"][kind]["sequence"] for kind in KINDS),
        "audit": "clean",
    }


def play(customer, name):
    apple, alice, first, second = f"apple-{name}", f"alice-{name}", f"o-1-{name}", f"o-2-{name}"

    def numbers(*expected):
        page = customer.expect(200, "GET", f"/mypages/{alice}")["items"]
        seen = (
            customer.expect(200, "GET", f"/wallets/{alice}")["balance"],
            customer.expect(200, "GET", f"/products/{apple}")["stock"],
            customer.expect(200, "GET", f"/deliveries/{first}")["status"],
            [one["status"] for one in page if one["id"] == first],
        )
        demand(seen == expected, f"balance, stock, delivery and page are {seen}")

    customer.expect(201, "POST", "/products", {"id": apple, "name": "apple", "price": 1000, "stock": 1000})
    customer.expect(201, "POST", "/wallets", {"id": alice, "balance": 999999})
    order = {"id": first, "user": alice, "product": apple, "quantity": 10}
    placed = customer.expect(201, "POST", "/orders", order)
    demand((placed["status"], placed["amount"]) == ("CONFIRMED", 10000), f"the order is {placed}")
    demand(customer.expect(201, "POST", "/orders", order) == placed, "the same order once more is another one")
    numbers(989999, 990, "SCHEDULED", ["CONFIRMED"])
    refused = customer.expect(409, "POST", "/orders", {**order, "id": second, "quantity": 991})
    demand((refused["code"], refused["stock"], refused["needed"]) == ("out_of_stock", 990, 991), f"{refused}")
    customer.expect(200, "POST", f"/orders/{first}/cancel")
    numbers(999999, 1000, "CANCELLED", ["CANCELLED"])


def backup(cluster):
    """the nightly backup, now: it is whole"""
    printed = cluster.job("backup")
    demand("the backup is in /backups/" in printed, printed)
    return {"it says": printed.strip().splitlines()[-1]}


def is_ready_at(address):
    try:
        return Customer(address).ask("GET", "/readyz")[0] == 200
    except (OSError, http.client.HTTPException):
        return False
