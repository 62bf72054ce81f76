//! Idempotency keys: what callers may give, and how the log names them.

use shop_domain::{
    id::{CallerKey, InvalidKey, Key},
    problem::Problem,
};
use uuid::Uuid;

use super::body::invalid;

/// Under this the names are made that stand for keys. It must never change: a retry has to find the answer that was
/// kept.
const NAMESPACE: Uuid = Uuid::from_u128(0x2c6e_91f4_7b0d_4a35_8e52_d1a7_60c3_9b48);

/// A key on its way into the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// What answers are kept under.
    pub key: Key,
    /// The key as it was given, where that is something else: what earlier programs did not take stands in the log
    /// under a name that they can read.
    pub as_given: Option<Box<str>>,
}

/// Reads the idempotency key, if there is one.
pub fn read(keys: &[String]) -> Result<Option<Named>, Problem> {
    let mistake = |detail: &str| invalid("/Idempotency-Key", detail);
    match keys {
        [] => Ok(None),
        [key] => key.parse().map(|key| Some(name(&key))).map_err(|error: InvalidKey| mistake(&error.to_string())),
        [_, _, ..] => Err(mistake("must be given once")),
    }
}

fn name(key: &CallerKey) -> Named {
    if let Ok(key) = key.as_str().parse() {
        return Named { key, as_given: None };
    }
    let name = Uuid::new_v5(&NAMESPACE, key.as_str().as_bytes()).to_string();
    let key_in_log = name.parse().expect("a UUID consists of digits, letters and hyphens");
    Named { key: key_in_log, as_given: Some(key.as_str().into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(key: &str) -> (String, Option<String>) {
        let Named { key, as_given } = read(&[key.to_owned()]).unwrap().unwrap();
        (key.as_str().to_owned(), as_given.map(Into::into))
    }

    #[test]
    fn a_key_that_was_always_taken_keeps_its_name_and_any_other_one_gets_one_for_ever() {
        let long = "k".repeat(128);
        for key in ["k-1", "A_z", &long] {
            assert_eq!(named(key), (key.to_owned(), None));
            assert_eq!(named(&format!("\"{key}\"")), (key.to_owned(), None));
        }
        let slash = ("48f089fa-d40d-56cd-92d1-b54eb0f38b75".to_owned(), Some("a/b".to_owned()));
        assert_eq!(named("a/b"), slash);
        assert_eq!(named("\"a/b\""), slash);
        let longer = "k".repeat(129);
        assert_eq!(named(&longer).1.as_deref(), Some(&*longer));
        assert_ne!(named("a/b").0, named("a/c").0);
    }

    #[test]
    fn a_key_is_given_once_and_keeps_the_rules_of_keys() {
        assert_eq!(read(&[]), Ok(None));
        for bad in [&["a", "a"][..], &["a b"], &[""], &["schlüssel"], &["\"a"]] {
            let keys: Vec<_> = bad.iter().map(ToString::to_string).collect();
            let problem = read(&keys).unwrap_err();
            assert_eq!(problem.facts["errors"][0]["pointer"], "/Idempotency-Key", "{bad:?}");
        }
    }
}
