"""Settings that change, and manifests that Kubernetes looks at."""

import json
import os
import subprocess
import tempfile

from shop import demand


def settings(cluster):
    """a changed setting: pods are replaced one after the other, and the new value is in force in each"""
    before = {one["metadata"]["uid"] for one in cluster.pods("bridge") + cluster.pods("host")}
    maps = {one["metadata"]["name"] for one in cluster.objects("configmaps")}
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.realpath(cluster.options.manifests))) as folder:
        with open(os.path.join(folder, "kustomization.yaml"), "w", encoding="ascii") as file:
            file.write(
                "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: shop\n"
                f"resources: [../{os.path.basename(os.path.realpath(cluster.options.manifests))}]\n"
                "configMapGenerator:\n  - {name: settings, namespace: shop, behavior: merge, literals: [RUST_LOG=debug]}\n"
            )
        cluster.k("apply", "--kustomize", folder)
    workloads = cluster.workloads()
    cluster.wait_for_rollouts(workloads)
    pods = [one for one in cluster.pods("bridge") + cluster.pods("host") if "deletionTimestamp" not in one["metadata"]]
    kept = [one["metadata"]["name"] for one in pods if one["metadata"]["uid"] in before]
    demand(not kept, f"{kept} were not replaced")
    used = {one["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"] for one in pods}
    demand(len(used) == 1 and not used & maps, f"pods have {used}, and before there were {maps}")
    for one in pods:
        name = one["metadata"]["name"]
        cluster.until(f"{name} says more", lambda name=name: "DEBUG" in cluster.k("logs", name), 60)
    cluster.k("apply", "--kustomize", cluster.options.manifests)
    cluster.wait_for_rollouts(workloads)
    return {"pods replaced": len(pods), "settings": used.pop(), "new value in force in": len(pods)}


def validation(cluster):
    """the API server takes every object of every overlay and component as it is, those of KEDA, Istio and the Gateway API by their own schemas, and refuses what it does not know"""
    cluster.k("apply", "--server-side", "--filename", cluster.options.schemas)
    cluster.k("wait", "--for=condition=Established", "--timeout=60s", "--filename", cluster.options.schemas)
    cluster.k("apply", "--filename", "-", text=json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ELSEWHERE}}))
    seen = {}
    for name, misspelt in TAKEN.items():
        rendered = render(cluster, *name.split(" + "))
        said = dry_run(cluster, rendered)
        demand(said.returncode == 0, f"{name} is refused: {said.stderr[-1500:]}")
        seen[name] = f"{len(said.stdout.splitlines())} objects are taken"
        demand(misspelt in rendered, f"{name} has no {misspelt}")
        refused = dry_run(cluster, rendered.replace(misspelt, f"{misspelt[:-1]}x:", 1))
        demand(refused.returncode != 0 and f"{misspelt[:-1]}x" in refused.stderr, f"a wrong field is taken: {refused.stderr[-1500:]}")
    cluster.k("delete", "namespace", ELSEWHERE)
    privileged = cluster.k("run", "intruder", "--image=test.local/shop:1", "--privileged", "--dry-run=server", check=False)
    demand("violates PodSecurity" in privileged.stderr, f"a privileged pod is let in: {privileged.stderr}")
    return {**seen, "a wrong field in each": "is refused", "a privileged pod": "is refused"}


# Where nothing is yet, so that all of it is new.
ELSEWHERE = "shop-elsewhere"
# What is applied, and a field of what makes it different, which is misspelt in turn.
TAKEN = {
    "small": "terminationGracePeriodSeconds:",
    "full": "terminationGracePeriodSeconds:",
    "full + autoscaling": "scaleTargetRef:",
    "full + keda": "cooldownPeriod:",
    "full + istio": "principals:",
    "full + gateway": "parentRefs:",
    "full + snapshots": "claimName:",
}


def render(cluster, overlay, *components):
    """What kustomize makes of what is shipped."""
    shipped = "../../../../deploy/kubernetes"
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.realpath(cluster.options.manifests))) as folder:
        with open(os.path.join(folder, "kustomization.yaml"), "w", encoding="ascii") as file:
            file.write(
                "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
                f"namespace: {ELSEWHERE}\nresources: [{shipped}/overlays/{overlay}]\ncomponents: [{', '.join(f'{shipped}/components/{one}' for one in components)}]\n"
            )
        return subprocess.run([*cluster.command, "kustomize", folder], capture_output=True, text=True, check=True).stdout


def dry_run(cluster, text):
    command = [*cluster.command, "apply", "--dry-run=server", "--validate=strict", "--filename", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=300)
