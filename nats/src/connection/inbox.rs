//! Inboxes: where a client waits for answers, and where hosts send them.
//!
//! A client that has a key waits below `_INBOX.<public key>`, which the nats-server lets no other key listen to, and
//! there below a part that it draws when it starts and tells only those whom it asks. So with one bridge's key the
//! answers to another bridge can neither be overheard nor be sent astray: a request that names an inbox of the other
//! one has to name the part that was drawn.

/// What all inboxes begin with, whoever waits there.
const ROOT: &str = "_INBOX";

/// What the nats-server puts in place of the inbox of a client of another account.
const OF_ANOTHER_ACCOUNT: &str = "_R_";

/// Longest inbox that is answered, in bytes: one with a key, two drawn parts and a number has 140.
const BYTES_MAX: usize = 255;

/// What the inboxes of a client begin with that has this key, or none.
pub(crate) fn prefix(public_key: Option<&str>) -> String {
    match public_key {
        Some(key) => format!("{ROOT}.{key}.{}", uuid::Uuid::new_v4().simple()),
        None => ROOT.to_owned(),
    }
}

/// Whether a caller can wait there. A host sends nothing to where the shop itself, or the server, listens.
pub(crate) fn is_a_callers(inbox: &str) -> bool {
    let mut tokens = inbox.split('.');
    let root = tokens.next().unwrap_or_default();
    let mut tokens = tokens.peekable();
    let is_below = tokens.peek().is_some();
    let is_plain = |token: &str| !token.is_empty() && !token.contains(['*', '>', ' ', '\t', '\r', '\n']);
    inbox.len() <= BYTES_MAX && [ROOT, OF_ANOTHER_ACCOUNT].contains(&root) && is_below && tokens.all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inboxes_of_two_clients_with_one_key_begin_alike_and_go_on_differently() {
        let (one, other) = (prefix(Some("UKEY")), prefix(Some("UKEY")));
        assert!(one.starts_with("_INBOX.UKEY.") && other.starts_with("_INBOX.UKEY."), "{one}, {other}");
        assert_ne!(one, other);
        assert_eq!(prefix(None), "_INBOX");
    }

    #[test]
    fn answers_go_to_inboxes_and_nowhere_else() {
        for inbox in ["_INBOX.abc", "_INBOX.UKEY.0f.shop.1e.7", "_R_.mwetHa.H8Mp1Q"] {
            assert!(is_a_callers(inbox), "{inbox}");
        }
        for other in [
            "",
            "_INBOX",
            "_INBOX.",
            "_INBOX.a..b",
            "_INBOX.>",
            "_INBOX.*.a",
            "_INBOXES.a",
            "shop.log.wallet.0",
            "shop.hold",
            "$JS.API.STREAM.DELETE.SHOP_WALLET",
            "$SYS.REQ.SERVER.PING",
            "a.b",
            &format!("_INBOX.{}", "a".repeat(255)),
        ] {
            assert!(!is_a_callers(other), "{other}");
        }
    }
}
