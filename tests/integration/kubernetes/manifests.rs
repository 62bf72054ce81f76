//! Manifests, read: what each object is, and what selects what.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use serde_json::{Map, Value, json};
use yaml_rust2::{Yaml, YamlLoader};

/// Where a pod is described, in what has one.
const TEMPLATES: [(&str, &str); 3] = [
    ("Deployment", "/spec/template"),
    ("StatefulSet", "/spec/template"),
    ("CronJob", "/spec/jobTemplate/spec/template"),
];
/// The sources of all objects of a shop with hosts for all kinds.
const SOURCES: [&str; 6] = [
    "base/namespace.yaml",
    "base/bridge.yaml",
    "base/network.yaml",
    "base/nats/nats.yaml",
    "base/tools/tools.yaml",
    "base/host/host.yaml",
];

/// All objects that are applied together.
pub(super) struct Manifests(Vec<Value>);

/// What starts pods.
pub(super) struct Workload<'a> {
    pub(super) object: &'a Value,
    template: &'a Value,
}

impl Manifests {
    /// The sources, and each overlay as kustomize makes it where there is a kubectl.
    pub(super) fn all() -> &'static [Self] {
        static ALL: OnceLock<Vec<Manifests>> = OnceLock::new();
        ALL.get_or_init(|| {
            let rendered = ["small", "full"].into_iter().filter_map(Self::rendered);
            [Self::sources()].into_iter().chain(rendered).collect()
        })
    }

    /// The sources.
    pub(super) fn sources() -> Self {
        let mut objects: Vec<Value> = SOURCES.iter().flat_map(|file| read(&folder().join(file))).collect();
        let settings = &read(&folder().join("base/kustomization.yaml"))[0]["configMapGenerator"][0];
        assert_eq!(settings["name"], "settings");
        let data: Map<String, Value> = list(&settings["literals"])
            .map(|literal| literal.as_str().and_then(|literal| literal.split_once('=')).expect("NAME=VALUE"))
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        objects.push(json!({ "kind": "ConfigMap", "metadata": { "name": "settings" }, "data": data }));
        objects.push(json!({ "kind": "ConfigMap", "metadata": { "name": "nats" }, "data": {} }));
        Self(objects)
    }

    fn rendered(overlay: &str) -> Option<Self> {
        let place = folder().join("overlays").join(overlay);
        let Ok(output) = Command::new("kubectl").arg("kustomize").arg(&place).output() else {
            // Not through `eprintln!`, which is kept from sight when a test passes.
            drop(writeln!(io::stderr(), "SKIPPED: there is no kubectl, so that {} is not looked at", place.display()));
            return None;
        };
        assert!(output.status.success(), "{}", text(&output.stderr));
        Some(Self(parse(&text(&output.stdout))))
    }

    pub(super) fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter(move |object| object["kind"] == kind)
    }

    pub(super) fn has(&self, kind: &str, name: &str) -> bool {
        self.of_kind(kind).any(|object| object["metadata"]["name"] == name)
    }

    pub(super) fn workloads(&self) -> Vec<Workload<'_>> {
        let found = self.0.iter().filter_map(|object| {
            let (_, place) = TEMPLATES.iter().find(|(kind, _)| object["kind"] == *kind)?;
            Some(Workload { object, template: object.pointer(place).expect("a workload has a template") })
        });
        let workloads: Vec<_> = found.collect();
        assert!(workloads.len() >= 5, "there are only {} workloads", workloads.len());
        workloads
    }

    /// The names of all variables that a container is given.
    pub(super) fn variables(&self) -> BTreeSet<String> {
        let settings = self.of_kind("ConfigMap").filter_map(|map| map["data"].as_object()).flat_map(Map::keys);
        let own = self.workloads();
        let own =
            own.iter().flat_map(|workload| list(&workload.container()["env"])).filter_map(|env| env["name"].as_str());
        settings.cloned().chain(own.map(str::to_owned)).collect()
    }

    /// Looks at everything that selects pods.
    pub(super) fn selectors_fit(&self) {
        let workloads = self.workloads();
        for workload in workloads.iter().filter(|workload| workload.object["kind"] != "CronJob") {
            let selector = &workload.object["spec"]["selector"]["matchLabels"];
            assert!(selects(selector, workload.labels()), "{workload} does not select its own pods");
            for spread in list(&workload.spec()["topologySpreadConstraints"]) {
                assert_eq!(&spread["labelSelector"]["matchLabels"], selector, "{workload} spreads other pods");
            }
            let others = workloads.iter().filter(|other| selects(selector, other.labels()));
            assert_eq!(others.count(), 1, "{workload} selects pods of others");
        }
        for set in self.of_kind("StatefulSet") {
            let service = set["spec"]["serviceName"].as_str().expect("a StatefulSet has a Service");
            let service = self.of_kind("Service").find(|other| other["metadata"]["name"] == service);
            assert_eq!(service.expect("it is there")["spec"]["clusterIP"], "None");
        }
        for service in self.of_kind("Service") {
            let name = &service["metadata"]["name"];
            let selected = selected(&workloads, &service["spec"]["selector"]);
            assert!(!selected.is_empty(), "the Service {name} finds no pod");
            for port in list(&service["spec"]["ports"]) {
                let target = port["targetPort"].as_str().expect("Services name ports");
                assert!(selected.iter().all(|workload| workload.ports().contains_key(target)), "{name}: {target}");
            }
        }
        for budget in self.of_kind("PodDisruptionBudget") {
            let selected = selected(&workloads, &budget["spec"]["selector"]["matchLabels"]);
            assert_eq!(selected.len(), 1, "the budget {} is not for one workload", budget["metadata"]["name"]);
        }
        self.flows_fit(&workloads);
    }

    /// Looks at who may speak to whom.
    fn flows_fit(&self, workloads: &[Workload<'_>]) {
        let mut denies_the_rest = false;
        for policy in self.of_kind("NetworkPolicy") {
            let (name, spec) = (&policy["metadata"]["name"], &policy["spec"]);
            let of = selected(workloads, &spec["podSelector"]["matchLabels"]);
            assert!(!of.is_empty(), "the policy {name} is for no pod");
            let [ingress, egress] = ["ingress", "egress"].map(|way| list(&spec[way]).collect::<Vec<_>>());
            denies_the_rest |= of.len() == workloads.len() && ingress.is_empty() && egress.is_empty();
            for port in ingress.iter().flat_map(|rule| list(&rule["ports"])) {
                let port = port["port"].as_str().expect("what comes in is let in by a port's name");
                assert!(of.iter().all(|workload| workload.ports().contains_key(port)), "{name}: {port}");
            }
            for rule in egress {
                for to in list(&rule["to"]).filter(|to| to["namespaceSelector"].is_null()) {
                    let to = selected(workloads, &to["podSelector"]["matchLabels"]);
                    assert!(!to.is_empty(), "{name} lets pods speak to none");
                    for port in list(&rule["ports"]).filter_map(|port| port["port"].as_str()) {
                        assert!(to.iter().all(|workload| workload.ports().contains_key(port)), "{name}: {port}");
                    }
                }
            }
        }
        assert!(denies_the_rest, "nothing forbids what is not allowed");
    }
}

impl Workload<'_> {
    pub(super) fn spec(&self) -> &Value {
        &self.template["spec"]
    }

    pub(super) fn container(&self) -> &Value {
        let containers = self.spec()["containers"].as_array().expect("a pod has containers");
        assert_eq!(containers.len(), 1, "{self}");
        &containers[0]
    }

    pub(super) fn is_the_shop(&self) -> bool {
        let image = self.container()["image"].as_str().expect("a container has an image");
        image.split(':').next().is_some_and(|name| name == "shop" || name.ends_with("/shop"))
    }

    pub(super) fn args(&self) -> Vec<&str> {
        list(&self.container()["args"]).filter_map(Value::as_str).collect()
    }

    /// The value of an option.
    pub(super) fn option(&self, name: &str) -> Option<&str> {
        self.args().into_iter().find_map(|arg| arg.strip_prefix(name)?.strip_prefix('='))
    }

    pub(super) fn ports(&self) -> BTreeMap<&str, u64> {
        let ports = list(&self.container()["ports"]);
        ports.filter_map(|port| Some((port["name"].as_str()?, port["containerPort"].as_u64()?))).collect()
    }

    /// The port and the path of each probe.
    pub(super) fn asked(&self) -> Vec<(String, String)> {
        let probes =
            ["startupProbe", "readinessProbe", "livenessProbe"].map(|probe| &self.container()[probe]["httpGet"]);
        let asked = probes.into_iter().filter(|probe| probe.is_object());
        asked.map(|probe| (string(&probe["port"]), string(&probe["path"]))).collect()
    }

    pub(super) fn component(&self) -> String {
        string(&self.labels()["app.kubernetes.io/component"])
    }

    pub(super) fn grace(&self) -> Duration {
        Duration::from_secs(self.spec()["terminationGracePeriodSeconds"].as_u64().expect("it is said"))
    }

    pub(super) fn leave_time(&self) -> Duration {
        Duration::from_millis(
            self.option("--leave-ms").and_then(|ms| ms.parse().ok()).expect("a bridge says how it leaves"),
        )
    }

    fn labels(&self) -> &Value {
        &self.template["metadata"]["labels"]
    }
}

impl fmt::Display for Workload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", string(&self.object["kind"]), string(&self.object["metadata"]["name"]))
    }
}

/// The Secrets that a patch mounts, with the files of them that it names.
pub(super) fn secrets(document: &Value) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    if let Some(patch) = document.get("patch").and_then(Value::as_str) {
        found.extend(parse(patch).iter().flat_map(secrets));
    }
    let name = document.get("secretName").or_else(|| document.get("name").filter(|_| document.get("items").is_some()));
    if let Some(name) = name.and_then(Value::as_str).filter(|name| *name != "nats") {
        let keys = document.get("items").into_iter().flat_map(list).map(|item| string(&item["key"]));
        found.push((name.to_owned(), keys.collect()));
    }
    let fields = document.as_object().into_iter().flat_map(Map::values);
    found.extend(list(document).chain(fields).flat_map(secrets));
    found
}

pub(super) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes")
}

/// Every document of a file.
pub(super) fn read(file: &Path) -> Vec<Value> {
    parse(&fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display())))
}

pub(super) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

pub(super) fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn selected<'a>(workloads: &'a [Workload<'a>], labels: &Value) -> Vec<&'a Workload<'a>> {
    workloads.iter().filter(|workload| selects(labels, workload.labels())).collect()
}

/// Whether a selector finds a pod; one without labels finds all.
fn selects(selector: &Value, labels: &Value) -> bool {
    selector.as_object().is_none_or(|selector| selector.iter().all(|(name, value)| labels.get(name) == Some(value)))
}

fn parse(text: &str) -> Vec<Value> {
    let documents = YamlLoader::load_from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"));
    documents.iter().map(value).filter(|document| !document.is_null()).collect()
}

fn value(yaml: &Yaml) -> Value {
    match yaml {
        Yaml::String(text) => text.as_str().into(),
        Yaml::Integer(number) => (*number).into(),
        Yaml::Boolean(is_so) => (*is_so).into(),
        Yaml::Real(number) => number.as_str().into(),
        Yaml::Array(items) => items.iter().map(value).collect(),
        Yaml::Hash(fields) => {
            let name = |name: &Yaml| name.as_str().expect("fields have names").to_owned();
            Value::Object(fields.iter().map(|(field, of)| (name(field), value(of))).collect())
        }
        Yaml::Null | Yaml::Alias(_) | Yaml::BadValue => Value::Null,
    }
}
