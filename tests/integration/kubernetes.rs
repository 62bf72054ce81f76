//! The manifests in `deploy/kubernetes`, held against the program that they start. No cluster is needed: the sources are
//! read as they stand, and as kustomize makes them where there is a kubectl.

mod manifests;
mod pods;

use std::{collections::BTreeSet, fs, time::Duration};

use shop_domain::kind::Kind;
use shop_tests::program;

use self::manifests::{Manifests, folder, read, text};
use crate::shop::TestShop;

/// How long a host takes at most from SIGTERM to its end: 5 s each for its doors and its connections, and its checkpoints.
const HOST_DRAIN_MAX: Duration = Duration::from_secs(30);
/// How long a bridge takes to close its connection after all else.
const BRIDGE_CLOSE_MAX: Duration = Duration::from_secs(5);
/// How long a nats-server takes beside the time in which it sends its clients away.
const NATS_STOP_MAX: Duration = Duration::from_secs(20);

#[test]
fn every_option_and_variable_in_the_manifests_is_one_of_the_program() {
    for manifests in Manifests::all() {
        let mut known = BTreeSet::new();
        for workload in manifests.workloads().iter().filter(|workload| workload.is_the_shop()) {
            let (command, options) =
                workload.args().split_first().map(|(first, rest)| (*first, rest.to_vec())).unwrap();
            let help = help_of(command);
            for option in &options {
                let (name, value) = option.split_once('=').unwrap_or((option, "no value is needed"));
                assert!(help.contains(name), "{workload}: shop {command} has no {name}");
                assert!(!value.is_empty(), "{workload}: {name} is given nothing");
            }
            known.extend(help);
        }
        let used: BTreeSet<_> = manifests.variables().into_iter().filter(|name| name.starts_with("SHOP_")).collect();
        assert!(used.len() >= 2, "{used:?}");
        for name in used {
            assert!(known.contains(&name), "no command that is started knows {name}");
        }
    }
}

#[test]
fn every_probe_asks_a_port_that_its_program_opens() {
    for manifests in Manifests::all() {
        for workload in manifests.workloads() {
            pods::probes_fit(&workload);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_that_a_probe_asks_is_answered() {
    let shop = TestShop::open().await;
    for manifests in Manifests::all() {
        let mut asked = 0;
        for workload in manifests.workloads().iter().filter(|workload| workload.is_the_shop()) {
            for (port, path) in workload.asked() {
                match port.as_str() {
                    "http" => drop(shop.get(path).await.is(200)),
                    "observe" => assert_eq!(shop.inside().get(&path).await.status, 200, "{workload}: {path}"),
                    other => panic!("{workload}: a probe asks {other}"),
                }
                asked += 1;
            }
        }
        assert!(asked >= 6, "{asked}");
    }
    shop.close().await;
}

#[test]
fn every_mount_has_a_volume_and_every_file_that_is_named_lies_in_one() {
    for manifests in Manifests::all() {
        for workload in manifests.workloads() {
            pods::volumes_fit(&workload, manifests);
        }
    }
}

#[test]
fn every_pod_may_do_nothing_that_it_need_not() {
    for manifests in Manifests::all() {
        for workload in manifests.workloads() {
            pods::is_restricted(&workload, manifests);
        }
        let namespace = manifests.of_kind("Namespace").next().expect("there is a namespace");
        assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted");
    }
}

#[test]
fn a_pod_is_given_longer_to_end_than_it_takes() {
    let drain = fs::read_to_string(folder().join("base/nats/nats.conf")).unwrap();
    let lame =
        drain.lines().find_map(|line| line.strip_prefix("lame_duck_duration: \"")?.strip_suffix("s\"")?.parse().ok());
    let lame = Duration::from_secs(lame.expect("nats.conf says how long a server takes to send its clients away"));
    for manifests in Manifests::all() {
        let mut looked_at = BTreeSet::new();
        for workload in manifests.workloads() {
            let component = workload.component();
            let takes = match component.as_str() {
                "bridge" => workload.leave_time() + shop_bridge_http::STOP_TIME_MAX + BRIDGE_CLOSE_MAX,
                "host" => HOST_DRAIN_MAX,
                "nats" => lame + NATS_STOP_MAX,
                _ => continue,
            };
            assert!(workload.grace() > takes, "{workload} takes up to {takes:?}, and has {:?}", workload.grace());
            looked_at.insert(component);
        }
        assert_eq!(looked_at.len(), 3, "{looked_at:?}");
    }
}

#[test]
fn everything_that_selects_pods_finds_some_and_ports_of_theirs() {
    for manifests in Manifests::all() {
        manifests.selectors_fit();
    }
}

#[test]
fn each_kind_has_a_workload_of_its_own_in_the_full_overlay() {
    let full = fs::read_to_string(folder().join("overlays/full/kustomization.yaml")).unwrap();
    for kind in Kind::ALL {
        let text = fs::read_to_string(folder().join(format!("kinds/{kind}/kustomization.yaml"))).unwrap();
        for part in [format!("namePrefix: {kind}-"), format!("shop/kind: {kind}"), format!("value: --kinds={kind}")] {
            assert!(text.contains(&part), "kinds/{kind} has no {part:?}");
        }
        assert!(full.contains(&format!("- ../../kinds/{kind}\n")), "overlays/full has no {kind}");
    }
}

#[test]
fn nats_servers_in_a_cluster_have_the_configuration_that_all_others_have() {
    let here = fs::read_to_string(folder().join("base/nats/cluster.conf")).unwrap();
    let origin = fs::read_to_string(folder().join("../../nats/server/cluster.conf")).unwrap();
    assert!(here == origin, "cp nats/server/cluster.conf deploy/kubernetes/base/nats/");
    let manifests = Manifests::sources();
    let given = manifests.variables();
    let wanted: BTreeSet<_> = origin
        .lines()
        .filter_map(|line| line.split_once(": $").filter(|_| !line.trim_start().starts_with('#')))
        .map(|(_, name)| name.trim().to_owned())
        .collect();
    assert!(wanted.len() >= 5, "{wanted:?}");
    assert!(wanted.is_subset(&given), "{:?}", wanted.difference(&given));
}

#[test]
fn the_script_for_secrets_makes_every_file_that_is_mounted_of_one() {
    let script = fs::read_to_string(folder().join("secrets.sh")).unwrap();
    let mut looked_at = 0;
    for file in ["components/keys/kustomization.yaml", "components/keys/nats.yaml"] {
        for document in read(&folder().join(file)) {
            for (secret, keys) in manifests::secrets(&document) {
                let made = script.lines().position(|line| line.contains(&format!("apply {secret} ")));
                let made = made.unwrap_or_else(|| panic!("secrets.sh makes no {secret}"));
                let lines: String = script.lines().skip(made).take(2).collect();
                for key in keys {
                    assert!(lines.contains(&format!("/{key}\"")), "secrets.sh puts no {key} into {secret}");
                    looked_at += 1;
                }
            }
        }
    }
    assert!(looked_at >= 5, "{looked_at}");
}

/// Every option and every variable that a command's help names.
fn help_of(command: &str) -> BTreeSet<String> {
    let output = std::process::Command::new(program::path()).args([command, "--help"]).output().unwrap();
    assert!(output.status.success(), "shop has no {command}");
    let help = text(&output.stdout);
    let is_in_a_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let words = help.split(|c| !is_in_a_name(c)).filter(|word| word.starts_with("--") || word.starts_with("SHOP_"));
    words.map(str::to_owned).collect()
}
