#!/bin/sh
# An order with curl: `sh order.sh`. SHOP_URL says where the shop is.
set -eu
shop=${SHOP_URL:-http://localhost:8080}
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT

# ask METHOD PATH [BODY] repeats the same request until its answer is definite, and leaves that in $status and $answer.
# An order's id is its key: however often it arrives, it is carried out once.
ask() {
    while :; do
        status=$(curl -s -o "$answer" -w '%{http_code}' --max-time 35 -X "$1" "$shop$2" \
            -H 'Content-Type: application/json' ${3:+-d "$3"}) || status="no answer"
        case $status in
            "no answer" | 202 | 429 | 503) echo "not known yet ($status), asking again" >&2 && sleep 1 ;;
            *) return ;;
        esac
    done
}

# text NAME prints a string of the answer. A program would use jq.
text() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" "$answer"; }

ask POST /products '{"id":"plum","name":"Plum","price":1,"stock":1000000}' # 409 if it is there: that is fine
ask POST /wallets '{"id":"zoe","balance":1000000}'

order="sh-$(date +%s)-$$"
ask POST /orders "{\"id\":\"$order\",\"user\":\"zoe\",\"product\":\"plum\",\"quantity\":3}"
echo "$order: $(text status)"
ask POST /orders "{\"id\":\"$order-more\",\"user\":\"zoe\",\"product\":\"plum\",\"quantity\":2000000}"
[ "$status" = 409 ] && echo "$order-more: refused, $(text code): $(text detail)"

before=
while :; do
    ask GET "/mypages/zoe?limit=2$before"
    grep -o '"id":"[^"]*"' "$answer" | sed 's/.*:"\(.*\)"/on the page: \1/'
    next=$(text next)
    [ -n "$next" ] || break
    before="&before=$next"
done
