// An order with Go's own library: `go run order.go`. SHOP_URL says where the shop is.
package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"
)

// ask repeats a request until its answer is definite. An order's id is its key: it is carried out once.
func ask(method, path, body string) (answer map[string]any) {
	for ; ; time.Sleep(time.Second) {
		request, _ := http.NewRequest(method, cmp.Or(os.Getenv("SHOP_URL"), "http://localhost:8080")+path, strings.NewReader(body))
		request.Header.Set("Content-Type", "application/json")
		response, err := http.DefaultClient.Do(request)
		if err == nil && !strings.Contains("202 429 503", response.Status[:3]) {
			defer response.Body.Close()
			json.NewDecoder(response.Body).Decode(&answer)
			return answer
		}
		fmt.Fprintln(os.Stderr, "not known yet, asking again")
	}
}

func main() {
	ask("POST", "/products", `{"id":"plum","name":"Plum","price":1,"stock":1000000}`) // if it is there, that is fine
	ask("POST", "/wallets", `{"id":"zoe","balance":1000000}`)
	id, body := fmt.Sprint("go-", time.Now().UnixNano()), `{"id":%q,"user":"zoe","product":"plum","quantity":%d}`
	fmt.Println(id+":", ask("POST", "/orders", fmt.Sprintf(body, id, 3))["status"])
	if refusal := ask("POST", "/orders", fmt.Sprintf(body, id+"-more", 2_000_000)); refusal["code"] != nil {
		fmt.Println(id+"-more: refused,", refusal["code"], refusal["detail"])
	}
	for page, query := map[string]any{"next": ""}, "?limit=2"; page["next"] != nil; query = fmt.Sprint("?limit=2&before=", page["next"]) {
		page = ask("GET", "/mypages/zoe"+query, "")
		for _, order := range page["items"].([]any) {
			fmt.Println("on the page:", order.(map[string]any)["id"])
		}
	}
}
