"""Settings that change, and manifests that Kubernetes looks at."""

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
    """the API server takes every object of every overlay as it is, and refuses what it does not know"""
    root = os.path.join(os.path.dirname(os.path.realpath(__file__)), "../../../deploy/kubernetes/overlays")
    seen = {}
    for overlay in ("small", "full"):
        rendered = subprocess.run([cluster.options.kubectl, "kustomize", os.path.join(root, overlay)], capture_output=True, text=True, check=True).stdout
        said = cluster.k("apply", "--dry-run=server", "--validate=strict", "--filename", "-", text=rendered)
        seen[overlay] = f"{len(said.splitlines())} objects are taken"
        wrong = rendered.replace("terminationGracePeriodSeconds", "terminationGraceSeconds", 1)
        refused = cluster.k("apply", "--dry-run=server", "--validate=strict", "--filename", "-", text=wrong, check=False)
        demand(refused.returncode != 0 and "terminationGraceSeconds" in refused.stderr, f"a wrong field is taken: {refused.stderr}")
    privileged = cluster.k("run", "intruder", "--image=test.local/shop:1", "--privileged", "--dry-run=server", check=False)
    demand("violates PodSecurity" in privileged.stderr, f"a privileged pod is let in: {privileged.stderr}")
    return {**seen, "a wrong field": "is refused", "a privileged pod": "is refused"}
