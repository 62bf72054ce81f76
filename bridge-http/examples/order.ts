// An order with fetch: `node order.ts` (from 22.18 on), `deno run -NE order.ts` or `bun order.ts`. SHOP_URL says where the shop is.
import process from "node:process";

const shop = process.env.SHOP_URL ?? "http://localhost:8080";

type Line = { product: string; quantity: number; unit_price: number };
type Order = { id: string; status: string; amount: number; lines: Line[] };
type Problem = { code: string; detail: string; stock?: number; needed?: number };
type Page = { items: Order[]; next: string | null };

/** Repeats the same request until its answer is definite. An order's id is its key: it is carried out once. */
async function ask<T>(method: string, path: string, body?: object): Promise<{ status: number; body: T }> {
  const headers = { "Content-Type": "application/json" };
  for (;;) {
    const request = { method, headers, body: body && JSON.stringify(body), signal: AbortSignal.timeout(35_000) };
    const answer = await fetch(shop + path, request).catch(() => undefined);
    if (answer && ![202, 429, 503].includes(answer.status)) return { status: answer.status, body: await answer.json() };
    console.error("not known yet, asking again");
    const seconds = Number(answer?.headers.get("Retry-After") ?? 1);
    await new Promise((wake) => setTimeout(wake, seconds * 1_000));
  }
}

await ask("POST", "/products", { id: "plum", name: "Plum", price: 1, stock: 1_000_000 }); // 409 if it is there: fine
await ask("POST", "/wallets", { id: "zoe", balance: 1_000_000 });

const id = `ts-${crypto.randomUUID()}`;
const placed = await ask<Order>("POST", "/orders", { id, user: "zoe", product: "plum", quantity: 3 });
console.log(`${id}: ${placed.body.status}`);
const more = { id: `${id}-more`, user: "zoe", product: "plum", quantity: 2_000_000 };
const { status, body: why } = await ask<Problem>("POST", "/orders", more);
if (status === 409) console.log(`${more.id}: refused, ${why.code}: ${why.needed} wanted, ${why.stock} left`);

for (let before: string | null = ""; before !== null; ) {
  const page: Page = (await ask<Page>("GET", `/mypages/zoe?limit=2${before && `&before=${before}`}`)).body;
  for (const order of page.items) console.log(`on the page: ${order.id}`);
  before = page.next;
}
