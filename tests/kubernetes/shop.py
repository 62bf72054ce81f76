"""A cluster with a shop on it, and customers of that shop."""

import http.client
import json
import random
import subprocess
import threading
import time
import uuid

NAMESPACE = "shop"
KINDS = ["wallet", "product", "order", "delivery", "mypage"]
# How long a pod may take to come on a machine that has other work.
PATIENCE = 300


class Failed(Exception):
    """Something is not as it must be."""


def demand(holds, what):
    if not holds:
        raise Failed(what)


class Cluster:
    """What is asked of Kubernetes."""

    def __init__(self, options):
        self.options = options
        self.command = [options.kubectl] + (["--kubeconfig", options.kubeconfig] if options.kubeconfig else [])

    def k(self, *arguments, text=None, check=True, patience=PATIENCE):
        """kubectl, in the shop's namespace; what it prints."""
        command = [*self.command, "--namespace", NAMESPACE, *arguments]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=patience + 60)
        if check and done.returncode != 0:
            raise Failed(f"kubectl {' '.join(arguments)}: {done.stdout[-1500:]}{done.stderr[-1500:]}")
        return done.stdout if check else done

    def objects(self, kind, selector=None):
        arguments = ["get", kind, "--output", "json"] + (["--selector", selector] if selector else [])
        return json.loads(self.k(*arguments))["items"]

    def workloads(self):
        """Of all of the shop but its nats-servers."""
        found = self.objects("statefulsets") + self.objects("deployments")
        names = [f"{one['kind'].lower()}/{one['metadata']['name']}" for one in found]
        return [name for name in names if name != "statefulset/nats"]

    def wait_for_rollouts(self, workloads, patience=PATIENCE):
        for workload in workloads:
            self.k("rollout", "status", workload, f"--timeout={patience}s", patience=patience)

    def address(self):
        """Where customers ask: the Service."""
        return json.loads(self.k("get", "service", "shop", "--output", "json"))["spec"]["clusterIP"]

    def pods(self, component=None, kind=None):
        labels = ["app.kubernetes.io/name=shop"]
        labels += [f"app.kubernetes.io/component={component}"] if component else []
        labels += [f"shop/kind={kind}"] if kind else []
        return self.objects("pods", ",".join(labels))

    def audit(self):
        """Runs the audit as its CronJob does, and demands that it finds nothing."""
        # The report is a line; what is before it are warnings.
        report = json.loads(self.job("audit").strip().splitlines()[-1])
        demand(report["clean"] is True and report["differences"]["count"] == 0, f"the audit says {report}")
        return report

    def job(self, cron):
        """Runs a CronJob once, now; what it printed."""
        name = f"{cron}-now-{uuid.uuid4().hex[:6]}"
        self.k("create", "job", name, f"--from=cronjob/{cron}")
        return self.printed(name)

    def tool(self, *args):
        """Runs a command of the shop with the operator's key, as the backup does; what it printed."""
        cron = json.loads(self.k("get", "cronjob", "backup", "--output", "json"))
        job = {"apiVersion": "batch/v1", "kind": "Job", "spec": cron["spec"]["jobTemplate"]["spec"]}
        job["metadata"] = {"name": f"{args[0]}-{uuid.uuid4().hex[:6]}"}
        job["spec"]["backoffLimit"] = 0
        job["spec"]["template"]["spec"]["containers"][0]["args"] = list(args)
        self.apply(job)
        return self.printed(job["metadata"]["name"])

    def apply(self, *objects):
        self.k("apply", "--filename", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def printed(self, job, should_succeed=True):
        """Waits for a Job; what it printed."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            status = json.loads(self.k("get", "job", job, "--output", "json"))["status"]
            conditions = [one["type"] for one in status.get("conditions", []) if one["status"] == "True"]
            ended = "Failed" if "Failed" in conditions else "Complete" if "Complete" in conditions else None
            if ended:
                said = self.k("logs", f"job/{job}", "--all-containers", check=False).stdout
                demand((ended == "Complete") == should_succeed, f"the Job {job} is {ended}: {said[-1500:]}")
                return self.k("logs", f"job/{job}")
            time.sleep(0.5)
        raise Failed(f"the Job {job} does not end")

    def until(self, what, is_so, patience=PATIENCE):
        """Asks until it is so; how many seconds that took."""
        began = time.monotonic()
        while time.monotonic() < began + patience:
            if is_so():
                return round(time.monotonic() - began, 1)
            time.sleep(0.25)
        raise Failed(f"waited {patience} s in vain until {what}")

    def show(self):
        """What an operator would look at first."""
        for arguments in [("get", "pods", "--output", "wide"), ("get", "events", "--sort-by=.lastTimestamp")]:
            print("\n".join(self.k(*arguments, check=False).stdout.splitlines()[-25:]))


class Customer:
    """Asks over one connection, or over a new one each time."""

    def __init__(self, address, keep=True, wait=20):
        self.address, self.keep, self.wait, self.connection = address, keep, wait, None

    def ask(self, method, path, body=None, headers=()):
        """Status and body; an error of the connection is the exception that it is."""
        if self.connection is None:
            self.connection = http.client.HTTPConnection(self.address, timeout=self.wait + 15)
        said = {"Prefer": f"wait={self.wait}", **dict(headers)}
        if body is not None:
            said["Content-Type"] = "application/json"
        try:
            self.connection.request(method, path, None if body is None else json.dumps(body), said)
            answer = self.connection.getresponse()
            status, text = answer.status, answer.read()
            last = answer.will_close
        except (OSError, http.client.HTTPException):
            self.close()
            raise
        if last or not self.keep:
            self.close()
        return status, json.loads(text) if text else None

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def expect(self, status, method, path, body=None):
        said, answer = self.ask(method, path, body)
        demand(said == status, f"{method} {path} is answered {said} instead of {status}: {answer}")
        return answer


class Rush:
    """Customers who order without a pause, each order with an id of its own, and keep what they are told. An order that
    was not answered well is asked for again under its id, as a customer would."""

    def __init__(self, address, customers=6):
        self.address, self.ends = address, threading.Event()
        self.lock, self.orders, self.trouble, self.times, self.slowest = threading.Lock(), {}, [], [], 0.0
        self.run_id, self.seed = uuid.uuid4().hex[:8], random.Random(7)
        owner = Customer(address)
        self.product = f"pear-{self.run_id}"
        owner.expect(201, "POST", "/products", {"id": self.product, "name": "pear", "price": 3, "stock": 10_000_000})
        self.users = [f"c{number}-{self.run_id}" for number in range(customers)]
        for user in self.users:
            owner.expect(201, "POST", "/wallets", {"id": user, "balance": 1_000_000_000})
        self.threads = [threading.Thread(target=self.order, args=(user,)) for user in self.users]

    def __enter__(self):
        self.began = time.monotonic()
        self.times.append(self.began)
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.ends.set()
        for thread in self.threads:
            thread.join()
        self.times.append(time.monotonic())

    def order(self, user):
        customer, number = Customer(self.address), 0
        while not self.ends.is_set():
            number += 1
            order = {"id": f"{user}-{number}", "user": user, "product": self.product, "quantity": 1 + number % 3}
            began = time.monotonic()
            while not self.is_confirmed(customer, order):
                if time.monotonic() > began + PATIENCE:
                    return
                time.sleep(0.2)
            now = time.monotonic()
            with self.lock:
                self.orders[order["id"]] = order
                self.times.append(now)
                self.slowest = max(self.slowest, now - began)

    def is_confirmed(self, customer, order):
        try:
            status, answer = customer.ask("POST", "/orders", order)
            if status == 201 and answer["status"] == "CONFIRMED":
                return True
            what = f"{status} {answer.get('code') or answer.get('status')}"
        except (OSError, http.client.HTTPException) as error:
            what = type(error).__name__
        with self.lock:
            self.trouble.append(what)
        return False

    def figures(self):
        """What they saw, after the end; demands that each order is as it was told, and that money and pieces add up."""
        reader, sold, spent = Customer(self.address), 0, {}
        for order in self.orders.values():
            sold += order["quantity"]
            spent[order["user"]] = spent.get(order["user"], 0) + 3 * order["quantity"]
        for order in random.Random(7).sample(list(self.orders.values()), min(50, len(self.orders))):
            there = reader.expect(200, "GET", f"/orders/{order['id']}")
            demand(there["status"] == "CONFIRMED", f"{order['id']} was confirmed, and is {there['status']}")
        stock = reader.expect(200, "GET", f"/products/{self.product}")["stock"]
        demand(stock == 10_000_000 - sold, f"{sold} pieces were sold, and {10_000_000 - stock} are gone")
        for user in self.users:
            balance = reader.expect(200, "GET", f"/wallets/{user}")["balance"]
            demand(balance == 1_000_000_000 - spent.get(user, 0), f"{user} spent {spent.get(user, 0)}, and has {balance}")
        times = sorted(self.times)
        gap = max(later - earlier for earlier, later in zip(times, times[1:]))
        trouble = {what: self.trouble.count(what) for what in sorted(set(self.trouble))}
        return {
            "orders confirmed, each once": len(self.orders),
            "longest time without a confirmed order, s": round(gap, 2),
            "slowest order, s": round(self.slowest, 2),
            "answers other than 201": trouble or "none",
        }
