//! What has to be true of each pod by itself.

use serde_json::{Value, json};

use super::manifests::{Manifests, Workload, list, string};

/// The options that open a port, by the name that the port has in manifests.
const OPENED_BY: [(&str, &str); 2] = [("http", "--http-addr"), ("observe", "--observe-addr")];
/// The ports of a nats-server, by the variable or the line of nats.conf that opens them.
const NATS_PORTS: [(&str, u64); 3] = [("client", 4222), ("route", 6222), ("monitor", 8222)];
/// The options that name a file or folder.
const PATHS: [&str; 5] = ["--data-dir", "--snapshots", "--to", "--nats-ca", "--nats-nkey"];

/// Probes ask ports that are there, and those are what the program is told to open.
pub(super) fn probes_fit(workload: &Workload<'_>) {
    let ports = workload.ports();
    for (port, _) in workload.asked() {
        assert!(ports.contains_key(&*port), "{workload} has no port {port}");
    }
    for (name, number) in &ports {
        if workload.component() == "nats" {
            assert!(NATS_PORTS.contains(&(name, *number)), "{workload}: {name}");
            continue;
        }
        let (_, option) =
            OPENED_BY.iter().find(|(port, _)| port == name).unwrap_or_else(|| panic!("{workload}: {name}"));
        // At any address: kubelet and others ask from outside of the pod.
        assert_eq!(workload.option(option), Some(&*format!("0.0.0.0:{number}")), "{workload}: {option}");
    }
    if workload.object["kind"] == "CronJob" {
        return;
    }
    let probe = |name: &str| &workload.container()[name]["httpGet"];
    for name in ["startupProbe", "readinessProbe", "livenessProbe"] {
        assert!(probe(name).is_object(), "{workload} has no {name}");
    }
    // A program that lives is not restarted because what is behind it is away, and what customers fill is not asked.
    let liveness = probe("livenessProbe");
    assert!(liveness["path"].as_str().is_some_and(|path| path.starts_with("/healthz")), "{workload}: {liveness}");
    assert_ne!(liveness["port"], "http", "{workload}");
    assert_ne!(liveness["path"], probe("readinessProbe")["path"], "{workload}");
}

/// Volumes are mounted, mounts have volumes, objects behind volumes are there, and paths in options lie in mounts.
pub(super) fn volumes_fit(workload: &Workload<'_>, manifests: &Manifests) {
    let name = |value: &Value| string(&value["name"]);
    let claimed = list(&workload.object["spec"]["volumeClaimTemplates"]).map(|claim| name(&claim["metadata"]));
    let volumes: Vec<String> = list(&workload.spec()["volumes"]).map(name).chain(claimed).collect();
    let mounts: Vec<(String, String)> =
        list(&workload.container()["volumeMounts"]).map(|mount| (name(mount), string(&mount["mountPath"]))).collect();
    for (volume, place) in &mounts {
        assert!(volumes.contains(volume), "{workload}: {place} has no volume {volume}");
    }
    for volume in &volumes {
        assert!(mounts.iter().any(|(mounted, _)| mounted == volume), "{workload}: {volume} is not mounted");
    }
    for volume in list(&workload.spec()["volumes"]) {
        if let Some(claim) = volume["persistentVolumeClaim"]["claimName"].as_str() {
            assert!(manifests.has("PersistentVolumeClaim", claim), "{workload}: {claim}");
        }
        for source in list(&volume["projected"]["sources"]).filter_map(|source| source["configMap"]["name"].as_str()) {
            assert!(manifests.has("ConfigMap", source), "{workload}: {source}");
        }
    }
    let settings = settings(workload, manifests);
    let named =
        ["SHOP_NATS_CA", "SHOP_NATS_NKEY", "SHOP_SNAPSHOTS"].into_iter().filter_map(|name| settings[name].as_str());
    for path in PATHS.into_iter().filter_map(|option| workload.option(option)).chain(named) {
        let is_in_one =
            mounts.iter().any(|(_, place)| path.strip_prefix(&**place).is_some_and(|rest| rest.starts_with('/')));
        assert!(is_in_one, "{workload}: {path} lies in no mount");
    }
}

/// As `restricted` Pod Security asks, and a little more.
pub(super) fn is_restricted(workload: &Workload<'_>, manifests: &Manifests) {
    let (spec, container) = (workload.spec(), workload.container());
    assert_eq!(spec["automountServiceAccountToken"], false, "{workload}");
    assert_eq!(spec["enableServiceLinks"], false, "{workload}: variables of Services would look like the shop's own");
    let account = spec["serviceAccountName"].as_str().unwrap_or_else(|| panic!("{workload} has no account"));
    assert!(manifests.has("ServiceAccount", account), "{workload}: {account}");
    let pod = &spec["securityContext"];
    assert_eq!(
        (&pod["runAsNonRoot"], &pod["runAsUser"], &pod["seccompProfile"]["type"]),
        (&json!(true), &json!(65_532), &json!("RuntimeDefault")),
        "{workload}"
    );
    let own = &container["securityContext"];
    let expected = json!({ "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] } });
    assert_eq!(own, &expected, "{workload}");
    for (kind, amount) in [("requests", "cpu"), ("requests", "memory"), ("limits", "memory")] {
        assert!(container["resources"][kind][amount].is_string(), "{workload} has no {amount} in {kind}");
    }
}

/// What a container is told by ConfigMaps.
fn settings<'a>(workload: &'a Workload<'_>, manifests: &'a Manifests) -> &'a Value {
    let map = workload.container()["envFrom"][0]["configMapRef"]["name"].as_str();
    let Some(map) = map else { return &Value::Null };
    let found = manifests.of_kind("ConfigMap").find(|object| object["metadata"]["name"] == map);
    &found.unwrap_or_else(|| panic!("{workload}: there is no {map}"))["data"]
}
