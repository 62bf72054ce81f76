"""New versions, while customers order."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid

from shop import Customer, demand


def under_siege(cluster):
    """siege, with connections that are kept and with new ones, while a new version is rolled out to every workload each time: every request is answered with success"""
    siege = shutil.which("siege")
    demand(siege, "there is no siege: apt-get install siege")
    address = cluster.address()
    customer, name = Customer(address), uuid.uuid4().hex[:8]
    customer.expect(201, "POST", "/products", {"id": f"fig-{name}", "name": "fig", "price": 1, "stock": 100_000_000})
    customer.expect(201, "POST", "/wallets", {"id": f"eve-{name}", "balance": 100_000_000})
    requests = [
        f'http://{address}/orders POST {{"user":"eve-{name}","product":"fig-{name}","quantity":1}}',
        f"http://{address}/products/fig-{name}",
        f"http://{address}/wallets/eve-{name}",
    ]
    answered, seen = 0, {}
    for connection, other in (("keep-alive", True), ("close", False)):
        image = next_image(cluster)
        before = {one["metadata"]["uid"] for one in pods_of_the_shop(cluster)}
        with tempfile.TemporaryDirectory() as folder:
            running = start(siege, folder, connection, requests)
            started = time.monotonic()
            time.sleep(2)
            began = time.monotonic()
            workloads = cluster.workloads()
            for workload in workloads:
                container = "bridge" if workload == "deployment/bridge" else "host"
                cluster.k("set", "image", workload, f"{container}={image}")
            cluster.wait_for_rollouts(workloads)
            rolled = time.monotonic() - began
            # For as long as it was to take, and for some seconds after the last pod was replaced.
            time.sleep(max(5, cluster.options.seconds - (time.monotonic() - started)))
            demand(running.poll() is None, f"siege ended by itself: {running.communicate()}")
            running.send_signal(signal.SIGINT)
            said, errors = running.communicate(timeout=120)
        figures = json.loads(said[said.index("{") : said.rindex("}") + 1])
        flawless = figures["availability"] == 100 and figures["failed_transactions"] == 0
        demand(flawless and figures["successful_transactions"] == figures["transactions"] > 0, f"siege says {figures} {errors[-800:]}")
        left = [one for one in pods_of_the_shop(cluster) if "deletionTimestamp" not in one["metadata"]]
        demand(not before & {one["metadata"]["uid"] for one in left}, "a pod of the old version is still there")
        demand({one["spec"]["containers"][0]["image"] for one in left} == {image}, "not all pods are of the new version")
        answered += figures["transactions"]
        seen[connection] = {"rolled out, s": round(rolled, 1), "pods replaced": len(before), "image": image, **kept(figures)}
    left = 100_000_000 - customer.expect(200, "GET", f"/products/fig-{name}")["stock"]
    paid = 100_000_000 - customer.expect(200, "GET", f"/wallets/eve-{name}")["balance"]
    # siege does not say how many of each it asked; what was paid for is what was taken, and the audit knows the rest.
    demand(left == paid > 0, f"{left} were taken, and {paid} paid for")
    cluster.audit()
    return {**seen, "requests in all": answered, "orders among them": left, "audit": "clean"}


def start(siege, folder, connection, requests):
    rc, urls = os.path.join(folder, "rc"), os.path.join(folder, "urls")
    with open(rc, "w", encoding="ascii") as file:
        file.write(
            f"protocol = HTTP/1.1\nconnection = {connection}\njson_output = true\nverbose = false\nshow-logfile = false\n"
            "logging = false\nparser = false\nfailures = 1000000\nlimit = 1000\nbenchmark = false\ndelay = 0.3\n"
        )
    with open(urls, "w", encoding="ascii") as file:
        file.write("\n".join(requests))
    command = [siege, "-R", rc, "-f", urls, "-c", "6", "-t", "1H", "-T", "application/json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def pods_of_the_shop(cluster):
    return cluster.pods("bridge") + cluster.pods("host")


def next_image(cluster):
    """The image that is not the one that runs: its tag is 1 or 2."""
    now = pods_of_the_shop(cluster)[0]["spec"]["containers"][0]["image"]
    name, _, tag = now.rpartition(":")
    return f"{name}:{'2' if tag == '1' else '1'}"


def kept(figures):
    names = ["transactions", "availability", "successful_transactions", "failed_transactions", "elapsed_time", "longest_transaction"]
    return {name: figures[name] for name in names}
