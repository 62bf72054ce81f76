//! The configuration of nats-servers that know their clients by keys, made from [`crate::server::permissions`].
//!
//! `nats/server/local.conf` and `cluster.conf` hold it for keys that do not exist, switched off; [`with_keys`] puts it
//! there for those that do.

pub mod permissions;

use std::{fmt::Write, path::Path};

use self::permissions::{ACCOUNT, Role, Row, Way, rows};

/// One nats-server by itself.
pub const LOCAL: &str = include_str!("../server/local.conf");
/// One of three.
pub const CLUSTER: &str = include_str!("../server/cluster.conf");

/// Where the configurations say that certificates are.
pub const CERTIFICATES: &str = "/etc/nats";

/// A client that a server knows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// What it may do.
    pub role: Role,
    /// What it is called; the role, or the role with a name of its own, `bridge-2`.
    pub name: String,
    /// The public part of its nkey.
    pub public: String,
}

impl Key {
    /// A subject of the table as it is for this key.
    pub fn subject(&self, subject: &str) -> String {
        let Self { role, name, public } = self;
        let own = name.strip_prefix(role.as_str()).and_then(|name| name.strip_prefix('-')).unwrap_or(name);
        subject.replace("<key>", public).replace("<name>", own)
    }
}

/// A configuration in which keys are switched on.
pub fn with_keys(configuration: &str, keys: &[Key]) -> String {
    switched_on(configuration, "accounts {", |_| accounts(keys))
}

/// A configuration in which certificates are switched on, which lie in that folder.
pub fn with_certificates(configuration: &str, folder: &Path) -> String {
    let folder = folder.display().to_string().replace('\\', "\\\\").replace('"', "\\\"");
    let uncommented = |block: &str| {
        let lines = block.lines().map(|line| line.replacen("# ", "", 1) + "\n");
        let block = lines.collect::<String>();
        // In quotation marks, because a path may hold anything.
        let (before, after) = (format!(": {CERTIFICATES}/"), format!(": \"{folder}/"));
        let quoted = block.lines().map(|line| match line.contains(&before) {
            true => line.replace(&before, &after) + "\"\n",
            false => line.to_owned() + "\n",
        });
        quoted.collect()
    };
    switched_on(configuration, "tls {", uncommented)
}

/// The accounts, their users, and what they bring each other.
pub fn accounts(keys: &[Key]) -> String {
    let mut keys = keys.to_vec();
    keys.sort();
    let (table, mut text) = (rows(), String::from("accounts {\n"));
    let mut names: Vec<_> = Role::ALL.map(Role::account).to_vec();
    names.dedup();
    for account in names {
        let _ = writeln!(text, "    {account} {{");
        if account == ACCOUNT {
            text += "        jetstream: enabled\n";
        }
        text += "        users: [\n";
        for key in keys.iter().filter(|key| key.role.account() == account) {
            text += &user(key, &table);
        }
        text += "        ]\n";
        text += &if account == ACCOUNT { exports(&table) } else { imports(account, &table) };
        text += "    }\n";
    }
    text + "}\n"
}

fn user(key: &Key, table: &[Row]) -> String {
    let Key { role, name, public } = key;
    let own = |of: fn(Way) -> bool| {
        let rows = table.iter().filter(move |row| row.role == *role && of(row.way));
        rows.map(|row| key.subject(&row.subject)).collect::<Vec<_>>()
    };
    let publish = own(|way| matches!(way, Way::Publish | Way::Ask | Way::AskMany));
    let subscribe = own(|way| matches!(way, Way::Subscribe | Way::Hear));
    format!(
        "            {{   # {name}: {}
                nkey: {public}
                permissions: {{
                    publish: [
{}                    ]
                    subscribe: [
{}                    ]
                }}
            }}
",
        role.purpose(),
        list(&publish),
        list(&subscribe)
    )
}

/// Subjects, as many in a line as there is room for.
fn list(subjects: &[String]) -> String {
    const INDENT: &str = "                        ";
    const COLUMNS_MAX: usize = 118;
    let (mut text, mut line) = (String::new(), String::new());
    for subject in subjects {
        let word = format!("\"{subject}\"");
        let separator = if line.is_empty() { "" } else { ", " };
        if INDENT.len() + line.len() + separator.len() + word.len() > COLUMNS_MAX {
            let _ = writeln!(text, "{INDENT}{line}");
            line.clear();
        }
        line += if line.is_empty() { "" } else { ", " };
        line += &word;
    }
    let _ = writeln!(text, "{INDENT}{line}");
    text
}

/// What the account of the logs lets others have.
fn exports(table: &[Row]) -> String {
    let mut brought: Vec<(&str, Way)> =
        table.iter().filter(|row| is_brought(row)).map(|row| (&*row.subject, row.way)).collect();
    brought.sort();
    brought.dedup();
    let mut text = String::from("        exports: [\n");
    for (subject, way) in brought {
        let to = table.iter().filter(|row| is_brought(row) && row.subject == subject).map(|row| row.role.account());
        let to = to.collect::<Vec<_>>().join(", ");
        let what = match way {
            Way::Hear => format!("stream: \"{subject}\""),
            Way::AskMany => format!("service: \"{subject}\", response_type: stream"),
            Way::Publish | Way::Subscribe | Way::Ask => format!("service: \"{subject}\""),
        };
        let _ = writeln!(text, "            {{ {what}, accounts: [{to}] }}");
    }
    text + "        ]\n"
}

fn imports(account: &str, table: &[Row]) -> String {
    let mut text = String::from("        imports: [\n");
    for row in table.iter().filter(|row| is_brought(row) && row.role.account() == account) {
        let what = if row.way == Way::Hear { "stream" } else { "service" };
        let _ = writeln!(text, "            {{ {what}: {{ account: {ACCOUNT}, subject: \"{}\" }} }}", row.subject);
    }
    text + "        ]\n"
}

fn is_brought(row: &Row) -> bool {
    matches!(row.way, Way::Ask | Way::AskMany | Way::Hear)
}

/// A configuration with something else in place of each block that begins like this and is commented out.
fn switched_on(configuration: &str, begin: &str, on: impl Fn(&str) -> String) -> String {
    let (mut text, mut block) = (String::new(), None::<(String, String)>);
    for line in configuration.lines() {
        let (indent, rest) = line.split_at(line.len() - line.trim_start().len());
        if rest == format!("# {begin}") {
            block = Some((format!("{indent}# }}"), String::new()));
        }
        match &mut block {
            Some((end, lines)) => {
                *lines += line;
                lines.push('\n');
                if line == end {
                    text += &on(lines);
                    block = None;
                }
            }
            None => {
                text += line;
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples() -> Vec<Key> {
        let key = |role: Role| {
            let own = match role {
                Role::Customer => "-alice",
                Role::Staff => "-mary",
                Role::Host | Role::Bridge | Role::Operator | Role::Reader | Role::Feed => "",
            };
            Key { role, name: format!("{role}{own}"), public: format!("U{}...", role.as_str().to_uppercase()) }
        };
        Role::ALL.map(key).to_vec()
    }

    #[test]
    fn the_configurations_hold_what_is_made_from_the_table() {
        let block = accounts(&examples()).lines().map(|line| format!("# {line}\n")).collect::<String>();
        for (name, configuration) in [("local.conf", LOCAL), ("cluster.conf", CLUSTER)] {
            if std::env::var_os("SHOP_WRITE_PAGES").is_some() {
                let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("server").join(name);
                let own = configuration.find("# accounts {\n").expect("it holds accounts");
                std::fs::write(file, configuration[..own].to_owned() + &block).unwrap();
                continue;
            }
            assert!(configuration.ends_with(&block), "nats/server/{name} should end with:\n{block}");
        }
    }

    #[test]
    fn keys_and_certificates_are_switched_on_in_their_places() {
        let on = with_certificates(&with_keys(CLUSTER, &examples()), Path::new("/my \"own\" folder"));
        assert!(on.contains("\naccounts {\n    SHOP {\n"), "{on}");
        assert_eq!(on.matches("\ntls {\n").count() + on.matches("\n    tls {\n").count(), 2, "{on}");
        assert!(on.contains(r#"    ca_file: "/my \"own\" folder/ca.crt""#), "{on}");
        assert!(!on.contains("/etc/nats"), "{on}");
        let on = with_certificates(&with_keys(LOCAL, &examples()), Path::new("/etc/shop"));
        assert!(on.contains("\naccounts {\n    SHOP {\n") && on.contains("\ntls {\n"), "{on}");
        assert!(on.contains("    key_file: \"/etc/shop/server.key\"") && !on.contains("ca_file"), "{on}");
    }
}
