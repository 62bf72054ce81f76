//! What `shop --version` says.

use std::sync::LazyLock;

use shop_domain::logic::Logic;

/// The program's version, its commit where that is known, and the logic versions that it can replay.
pub(crate) static VERSION: LazyLock<String> = LazyLock::new(|| version(env!("SHOP_COMMIT")));

fn version(commit: &str) -> String {
    let commit = if commit.is_empty() { "of an unknown commit".to_owned() } else { format!("of commit {commit}") };
    let [oldest, .., newest] = Logic::ALL;
    format!("{} {commit}, logic versions {oldest} to {newest}", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_names_the_commit_where_there_is_one() {
        let logic = format!("logic versions 1 to {}", Logic::NEWEST);
        assert_eq!(version("0123abc"), format!("0.1.0 of commit 0123abc, {logic}"));
        assert_eq!(version(""), format!("0.1.0 of an unknown commit, {logic}"));
    }
}
