"""Mutual TLS between pods, by a sidecar."""

import base64
import json
import os
import subprocess
import tempfile
import uuid

from rows.full import is_ready_at
from shop import demand

APPLES = 10
SECURITY = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
IDENTITY = {"name": "identity", "mountPath": "/etc/identity", "readOnly": True}


def mutual_tls(cluster):
    """orders go through an Envoy beside the customer and one beside the bridge, by mutual TLS; a pod without an identity, with that of another authority, or with one that may not order, is refused"""
    with tempfile.TemporaryDirectory() as folder:
        identities(cluster, folder)
    overlay = f"{cluster.options.manifests}/../mesh"
    cluster.k("apply", "--kustomize", overlay)
    cluster.wait_for_rollouts(["deployment/bridge"])
    name = uuid.uuid4().hex[:8]
    said = customer(cluster, "customer", requests(name)).split()
    demand(said == ["201"] * (2 + APPLES) + ["200", "200"], f"a customer with an identity is told {said}")
    left = json.loads(customer(cluster, "customer", [("GET", f"/products/apple-{name}", None)], show=True))
    paid = json.loads(customer(cluster, "customer", [("GET", f"/wallets/alice-{name}", None)], show=True))
    demand((left["stock"], paid["balance"]) == (100 - APPLES, 1000 - 7 * APPLES), f"{left} are left, and {paid}")
    stranger = customer(cluster, "stranger", [("GET", f"/products/apple-{name}", None)])
    demand(stranger.strip() == "403", f"a pod whose account may not order is told {stranger}")
    # The same request each time, so that nothing but who asks makes the difference.
    known = ["--cacert", "/etc/identity/ca.crt", "--cert", "/etc/identity/tls.crt", "--key", "/etc/identity/tls.key"]
    # The name in the certificate is that of the account, and not of the Service.
    asks = ["-k", "-sS", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}\\n", f"https://shop:80/products/apple-{name}"]
    demand(curl(cluster, "customer", known + asks) == (0, "200"), "a pod that shows its identity by itself is refused")
    refused = {
        "without a certificate": curl(cluster, "customer", asks),
        "with one of another authority": curl(cluster, "foreign", known + asks),
        "without TLS": curl(cluster, "customer", [one.replace("https:", "http:") for one in asks]),
        "past the sidecar": curl(cluster, "customer", [one.replace("https://shop:80", f"http://{address(cluster)}:8080") for one in asks]),
    }
    for how, (code, status) in refused.items():
        demand(code != 0 and status == "000", f"{how}, a pod is told {status}, and curl ends with {code}")
    demand(refused["past the sidecar"][0] == 7, f"a bridge can be reached past its sidecar: {refused}")
    log = "".join(cluster.k("logs", one["metadata"]["name"], "--container", "envoy") for one in cluster.pods("bridge"))
    orders = [line for line in log.splitlines() if line == "POST /orders 201 from spiffe://cluster.local/ns/shop/sa/customer"]
    demand(len(orders) == APPLES, f"the sidecars of the bridges saw {len(orders)} orders by that account")
    cluster.audit()
    back(cluster)
    return {
        "orders through both sidecars": len(orders), "of": "spiffe://cluster.local/ns/shop/sa/customer", "an account that may not": "403",
        **{how: f"refused (curl {code})" for how, (code, _) in refused.items()}, "audit": "clean",
    }


def identities(cluster, folder):
    """An authority, and what it says of each service account, as a mesh does; and one of an authority that is not known."""
    for authority in ("mesh", "other"):
        openssl(folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-subj", f"/CN={authority}",
                "-keyout", f"{authority}.key", "-out", f"{authority}.crt")
    for account, names, authority in (("bridge", "bridge", "mesh"), ("customer", "customer", "mesh"), ("stranger", "stranger", "mesh"), ("foreign", "customer", "other")):
        openssl(folder, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={account}", "-keyout", f"{account}.key", "-out", f"{account}.csr")
        with open(os.path.join(folder, "names"), "w", encoding="ascii") as file:
            file.write(f"subjectAltName=URI:spiffe://cluster.local/ns/shop/sa/{names}\n")
        openssl(folder, "x509", "-req", "-in", f"{account}.csr", "-CA", f"{authority}.crt", "-CAkey", f"{authority}.key", "-CAcreateserial", "-days", "1",
                "-extfile", "names", "-out", f"{account}.crt")
        files = {"tls.crt": f"{account}.crt", "tls.key": f"{account}.key", "ca.crt": "mesh.crt"}
        data = {name: base64.b64encode(read(folder, file)).decode() for name, file in files.items()}
        cluster.apply(
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"identity-{account}"}, "data": data},
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}, "automountServiceAccountToken": False},
        )


def requests(name):
    return [
        ("POST", "/products", {"id": f"apple-{name}", "name": "apple", "price": 7, "stock": 100}),
        ("POST", "/wallets", {"id": f"alice-{name}", "balance": 1000}),
        *[("POST", "/orders", {"id": f"o{number}-{name}", "user": f"alice-{name}", "product": f"apple-{name}", "quantity": 1}) for number in range(APPLES)],
        ("GET", f"/orders/o0-{name}", None),
        ("GET", f"/mypages/alice-{name}", None),
    ]


def customer(cluster, account, asked, show=False):
    """A pod that asks through an Envoy of its own, under its account; what it was answered, or the statuses of that."""
    args = []
    for method, path, body in asked:
        args += ["--next"] if args else []
        args += ["-sS", "-m", "30", "--retry", "20", "--retry-connrefused", "--retry-delay", "1", "-X", method, f"http://127.0.0.1:15001{path}"]
        args += [] if body is None else ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
        args += [] if show else ["-o", "/dev/null", "-w", "%{http_code}\\n"]
    code, said = curl(cluster, account, args, sidecar=True)
    demand(code == 0, f"curl of {account} ends with {code}: {said}")
    return said


def curl(cluster, account, args, sidecar=False):
    """Runs curl in a pod of an account, by itself or beside an Envoy; its exit code, and what it printed."""
    envoy = {
        "name": "envoy", "image": "test.local/envoy:1", "restartPolicy": "Always", "securityContext": SECURITY,
        "args": ["--config-path", "/etc/mesh/customer.yaml", "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"],
        "volumeMounts": [IDENTITY, {"name": "mesh", "mountPath": "/etc/mesh", "readOnly": True}],
    }
    container = {"name": "curl", "image": "test.local/curl:1", "args": args, "securityContext": SECURITY, "volumeMounts": [IDENTITY]}
    security = {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    pod = {"restartPolicy": "Never", "serviceAccountName": account, "automountServiceAccountToken": False, "enableServiceLinks": False,
           "securityContext": security, "initContainers": [envoy] if sidecar else [], "containers": [container], "volumes": [
               {"name": "identity", "secret": {"secretName": f"identity-{account}", "defaultMode": 0o400}},
               {"name": "mesh", "configMap": {"name": configuration(cluster)}}]}
    name = f"{account}-{uuid.uuid4().hex[:6]}"
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"shop/client": "true"}}, "spec": pod})
    cluster.until(f"{name} has ended", lambda: ended(cluster, name) is not None)
    said = cluster.k("logs", name, "--container", "curl").strip()
    code = ended(cluster, name)
    cluster.k("delete", "pod", name, "--wait=false")
    # The last line is what curl says of the outcome; what comes before is what went wrong.
    return code, said if sidecar else said.splitlines()[-1]


def ended(cluster, pod):
    statuses = json.loads(cluster.k("get", "pod", pod, "--output", "json"))["status"].get("containerStatuses", [])
    return next((one["state"]["terminated"]["exitCode"] for one in statuses if one["name"] == "curl" and "terminated" in one["state"]), None)


def configuration(cluster):
    """The ConfigMap that the bridge's Envoy has."""
    volumes = json.loads(cluster.k("get", "deployment", "bridge", "--output", "json"))["spec"]["template"]["spec"]["volumes"]
    return next(one["configMap"]["name"] for one in volumes if one["name"] == "mesh")


def address(cluster):
    return cluster.pods("bridge")[0]["status"]["podIP"]


def back(cluster):
    cluster.k("apply", "--kustomize", cluster.options.manifests)
    cluster.wait_for_rollouts(["deployment/bridge"])
    cluster.until("the Service leads to a bridge again", lambda: is_ready_at(cluster.address()), 60)


def openssl(folder, *args):
    subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)


def read(folder, file):
    with open(os.path.join(folder, file), "rb") as opened:
        return opened.read()
