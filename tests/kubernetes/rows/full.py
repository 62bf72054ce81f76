"""The whole of it: applied, and used as in the README."""

import http.client
import time

from shop import KINDS, Customer, demand


def story(cluster):
    """apply, wait until all is ready, and a customer's story through the Service: every number is exact"""
    began = time.monotonic()
    cluster.k("apply", "--kustomize", cluster.options.manifests)
    workloads = ["statefulset/nats", *cluster.workloads()]
    cluster.wait_for_rollouts(workloads)
    ready = round(time.monotonic() - began, 1)
    customer = Customer(cluster.address())
    # Two pods of each kind are ready, and the Service may still be on its way to this node.
    cluster.until("the Service leads to a bridge", lambda: is_ready_at(cluster.address()), 30)
    if customer.ask("GET", "/orders/o-1")[0] == 404:
        play(customer)
    demand(customer.expect(200, "GET", "/orders/o-1")["status"] == "CANCELLED", "o-1 is not as it was left")
    report = cluster.audit()
    return {
        "seconds from apply to ready": ready,
        "workloads": sorted(workloads),
        "pods": len(cluster.pods()),
        "records in the logs": sum(report["kinds"][kind]["sequence"] for kind in KINDS),
        "audit": "clean",
    }


def play(customer):
    customer.expect(201, "POST", "/products", {"id": "apple", "name": "apple", "price": 1000, "stock": 1000})
    customer.expect(201, "POST", "/wallets", {"id": "alice", "balance": 999999})
    order = {"id": "o-1", "user": "alice", "product": "apple", "quantity": 10}
    first = customer.expect(201, "POST", "/orders", order)
    demand((first["status"], first["amount"]) == ("CONFIRMED", 10000), f"the order is {first}")
    demand(customer.expect(201, "POST", "/orders", order) == first, "the same order once more is another one")
    numbers(customer, 989999, 990, "SCHEDULED", "CONFIRMED")
    refused = customer.expect(409, "POST", "/orders", {**order, "id": "o-2", "quantity": 991})
    demand((refused["code"], refused["stock"], refused["needed"]) == ("out_of_stock", 990, 991), f"{refused}")
    customer.expect(200, "POST", "/orders/o-1/cancel")
    numbers(customer, 999999, 1000, "CANCELLED", "CANCELLED")


def numbers(customer, balance, stock, delivery, status):
    page = customer.expect(200, "GET", "/mypages/alice")["items"]
    seen = (
        customer.expect(200, "GET", "/wallets/alice")["balance"],
        customer.expect(200, "GET", "/products/apple")["stock"],
        customer.expect(200, "GET", "/deliveries/o-1")["status"],
        [one["status"] for one in page if one["id"] == "o-1"],
    )
    demand(seen == (balance, stock, delivery, [status]), f"balance, stock, delivery and page are {seen}")


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
