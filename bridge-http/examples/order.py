#!/usr/bin/env python3
"""An order with nothing but Python: `python3 order.py`. SHOP_URL says where the shop is."""
import json, os, sys, time, urllib.error, urllib.parse, urllib.request, uuid

SHOP = os.environ.get("SHOP_URL", "http://localhost:8080")


def ask(method, path, body=None):
    """Repeats the same request until its answer is definite. An order's id is its key: it is carried out once."""
    data = None if body is None else json.dumps(body).encode()
    while True:
        request = urllib.request.Request(SHOP + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            answer = urllib.request.urlopen(request, timeout=35)
        except urllib.error.HTTPError as refusal:
            answer = refusal
        except OSError as error:
            answer = None
        if answer is not None and answer.status not in (202, 429, 503):
            return answer.status, json.load(answer)
        print("not known yet, asking again", file=sys.stderr, flush=True)
        time.sleep(int(answer.headers.get("Retry-After", 1)) if answer else 1)


ask("POST", "/products", {"id": "plum", "name": "Plum", "price": 1, "stock": 1_000_000})  # 409 if it is there: fine
ask("POST", "/wallets", {"id": "zoe", "balance": 1_000_000})

order = f"py-{uuid.uuid4()}"
_, placed = ask("POST", "/orders", {"id": order, "user": "zoe", "product": "plum", "quantity": 3})
print(f"{order}: {placed['status']}")
status, refusal = ask("POST", "/orders", {"id": f"{order}-more", "user": "zoe", "product": "plum", "quantity": 2_000_000})
if status == 409:
    print(f"{order}-more: refused, {refusal['code']}: {refusal['needed']} wanted, {refusal['stock']} left")

query = {"limit": 2}
while query:
    _, page = ask("GET", "/mypages/zoe?" + urllib.parse.urlencode(query))
    print(*(f"on the page: {item['id']}" for item in page["items"]), sep="\n")
    query = page["next"] and query | {"before": page["next"]}
