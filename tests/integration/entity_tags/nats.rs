//! Entity tags over NATS, in JSON and in MessagePack.

use async_nats::{Client, HeaderMap, Message};
use serde_json::{Value, json};

use crate::{nats_face::Format, shop::TestShop};

struct Caller {
    nats: Client,
    format: Format,
}

impl Caller {
    #[expect(clippy::disallowed_methods, reason = "several lines of one name, with values that this test chose")]
    async fn ask(
        &self,
        subject: &str,
        body: Value,
        headers: &[(&str, &str)],
    ) -> (Option<String>, Option<String>, Value) {
        let mut lines = HeaderMap::new();
        headers.iter().for_each(|(name, value)| lines.append(*name, *value));
        let message =
            self.nats.request_with_headers(subject.to_owned(), lines, self.format.write(&body).into()).await.unwrap();
        let header = |name: &str| Some(message.headers.as_ref()?.get(name)?.as_str().to_owned());
        (header("Nats-Service-Error-Code"), header("ETag"), self.read(&message))
    }

    fn read(&self, message: &Message) -> Value {
        if message.payload.is_empty() { Value::Null } else { self.format.read(message) }
    }
}

fn is(number: u64) -> Option<String> {
    Some(format!("\"{number}\""))
}

fn code(status: u16) -> Option<String> {
    Some(status.to_string())
}

#[tokio::test]
async fn over_nats_tags_are_told_and_demanded_in_headers_as_over_http() {
    let shop = TestShop::open().await;
    let nats = async_nats::connect(shop.shop.nats_url()).await.unwrap();
    for format in [Format::Json, Format::Msgpack] {
        let caller = Caller { nats: nats.clone(), format };
        let id = format!("apple-{format:?}");
        let at = |verb: &str| format!("shop.product.{id}.{verb}");
        let (create, get, change) = (at("create"), at("get"), at("change"));
        let product = json!({ "name": "apple", "price": 10, "stock": 5 });
        let (status, etag, problem) = caller.ask(&create, product.clone(), &[("If-Match", "*")]).await;
        assert_eq!((status, etag, &problem["code"]), (code(412), None, &json!("precondition_failed")));
        let (status, etag, _) = caller.ask(&create, product.clone(), &[("If-None-Match", "*")]).await;
        assert_eq!((status, etag), (None, is(1)));
        let (status, _, problem) = caller.ask(&create, product, &[("If-None-Match", "*")]).await;
        assert_eq!((status, &problem["etag"]), (code(412), &json!("\"1\"")));

        let (status, etag, shown) = caller.ask(&get, json!({}), &[]).await;
        assert_eq!((status, etag, &shown["price"]), (None, is(1), &json!(10)));
        for known in [&[("If-None-Match", "\"1\"")][..], &[("if-none-match", "\"9\""), ("if-none-match", "W/\"1\"")]] {
            assert_eq!(caller.ask(&get, json!({}), known).await, (code(304), is(1), Value::Null));
        }
        let (status, etag, shown) = caller.ask(&get, json!({}), &[("If-None-Match", "\"2\"")]).await;
        assert_eq!((status, etag, &shown["price"]), (None, is(1), &json!(10)));
        let (status, _, problem) = caller.ask(&get, json!({}), &[("If-Match", "\"2\"")]).await;
        assert_eq!((status, &problem["etag"]), (code(412), &json!("\"1\"")));

        let key = ("Idempotency-Key", "k");
        let price = json!({ "price": 11 });
        let first = caller.ask(&change, price.clone(), &[("If-Match", "\"7\""), ("If-Match", "\"1\""), key]).await;
        assert_eq!((&first.0, &first.1, &first.2["price"]), (&None, &is(2), &json!(11)));
        assert_eq!(caller.ask(&change, price, &[("If-Match", "\"1\""), key]).await, first);
        let (status, etag, problem) = caller.ask(&change, json!({ "price": 12 }), &[("If-Match", "\"1\"")]).await;
        assert_eq!((status, etag), (code(412), None));
        assert_eq!(
            (&problem["kind"], &problem["id"], &problem["etag"]),
            (&json!("product"), &json!(id), &json!("\"2\""))
        );
        for header in ["If-Match", "If-None-Match"] {
            for (subject, body) in [(&change, json!({ "price": 12 })), (&get, json!({}))] {
                let (status, _, problem) = caller.ask(subject, body, &[(header, "nonsense")]).await;
                assert_eq!((status, &problem["code"]), (code(400), &json!("malformed")));
                assert!(
                    problem["detail"].as_str().unwrap().contains(&format!("the header {header} must be")),
                    "{problem}"
                );
            }
        }
        let (_, etag, shown) = caller.ask(&get, json!({}), &[]).await;
        assert_eq!((etag, &shown["price"]), (is(2), &json!(11)));
        let (status, etag, page) = caller.ask("shop.mypage.nobody.get", json!({}), &[]).await;
        assert_eq!((status, etag, &page["items"]), (None, is(0), &json!([])));
        let (status, etag, _) = caller.ask("shop.mypage.nobody.get", json!({}), &[("If-None-Match", "\"0\"")]).await;
        assert_eq!((status, etag), (code(304), is(0)));
        let (status, etag, _) = caller.ask("shop.product.list", json!({}), &[("If-None-Match", "\"1\"")]).await;
        assert_eq!((status, etag), (None, None));
    }
    shop.close().await;
}
