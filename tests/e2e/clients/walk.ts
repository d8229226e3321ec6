/**
 * An order from end to end, in the types that openapi-typescript makes of the five documents: `node walk.js URL...`,
 * with the URLs of user, product, order, notification and analytics. Ends with status 0, and prints the ids of an order
 * that it delivered and of one that it cancelled.
 */
// @ts-expect-error -- Node.js 18 has no global crypto, and its types are not installed
import { webcrypto as crypto } from "node:crypto";
import createClient from "openapi-fetch";
import type { paths as Analytics } from "./analytics.js";
import type { paths as Notifications } from "./notification.js";
import type { components, paths as Orders } from "./order.js";
import type { paths as Products } from "./product.js";
import type { paths as Users } from "./user.js";

declare const process: { argv: string[] };

type Problem = components["schemas"]["Problem"];
type Order = components["schemas"]["Order"];
type Answer<Body> = { data?: Body; error?: Problem; response: Response };

const urls = process.argv.slice(2).map((url) => ({ baseUrl: `${url}/api/v1` }));
const users = createClient<Users>(urls[0]);
const products = createClient<Products>(urls[1]);
const orders = createClient<Orders>(urls[2]);
const notifications = createClient<Notifications>(urls[3]);
const analytics = createClient<Analytics>(urls[4]);

function equal<Value>(found: Value, wanted: Value): void {
  if (found !== wanted) throw new Error(`${String(found)} instead of ${String(wanted)}`);
}

function done<Body>({ data, error, response }: Answer<Body>, status: number): Body {
  if (error) throw new Error(`${error.status} ${error.code}: ${error.detail}`);
  equal(response.status, status);
  if (data === undefined) throw new Error(`${response.url} answered nothing`);
  return data;
}

function refused({ error, response }: Answer<unknown>, status: number, code: string): Problem {
  equal(response.status, status);
  equal(error?.code, code);
  if (!error) throw new Error("no problem document");
  equal(error.request_id, response.headers.get("X-Request-ID") ?? "");
  return error;
}

async function eventually<Found>(find: () => Promise<Found | undefined>): Promise<Found> {
  for (const end = Date.now() + 10_000; Date.now() < end; ) {
    const found = await find();
    if (found !== undefined) return found;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error("not within ten seconds");
}

async function act(order: Order, action: "ship" | "deliver" | "cancel"): Promise<Order> {
  const params = { path: { order_id: order.id }, header: { "If-Match": `"${order.version}"` } };
  return done(await orders.POST(`/orders/{order_id}/${action}`, { params }), 200);
}

const email = `${crypto.randomUUID()}@example.com`;
const user = done(await users.POST("/users", { body: { email, name: "Ada Lovelace" } }), 201);
equal(user.email, email);
equal(user.role, "customer");

const laptop = { name: "Laptop", price: "2499.99", stock: 25 };
const product = done(await products.POST("/products", { body: laptop }), 201);
const price: string = product.price;
equal(price, "2499.99");
equal(product.currency, "EUR");

// An order, and once more with the same key.
const body = { user_id: user.id, items: [{ product_id: product.id, quantity: 2 }], note: "Ring twice." };
const header = { "Idempotency-Key": crypto.randomUUID() };
const first = await orders.POST("/orders", { params: { header }, body });
const order = done(first, 201);
equal(first.response.headers.get("Location"), `/api/v1/orders/${order.id}`);
equal(first.response.headers.get("Idempotent-Replayed"), null);
const again = await orders.POST("/orders", { params: { header }, body });
equal(done(again, 201).id, order.id);
equal(again.response.headers.get("Idempotent-Replayed"), "true");
const other = { ...body, note: "Ring once." };
refused(await orders.POST("/orders", { params: { header }, body: other }), 422, "idempotency-key-reused");

const total: string | null = order.total;
equal(total, "4999.98");
equal(order.status, "confirmed");
equal(order.items[0]?.line_total, "4999.98");
equal(order.rejection, null);
const path = { order_id: order.id };
const read = await orders.GET("/orders/{order_id}", { params: { path } });
equal(JSON.stringify(done(read, 200)), JSON.stringify(order));

// What cannot be had.
const tooMany = { user_id: user.id, items: [{ product_id: product.id, quantity: 24 }] };
const short = refused(await orders.POST("/orders", { body: tooMany }), 409, "insufficient-stock");
equal(short.errors?.[0]?.pointer, "/items/0/quantity");
const unknown = { params: { path: { order_id: crypto.randomUUID() } } };
refused(await orders.GET("/orders/{order_id}", unknown), 404, "not-found");
const stale = { params: { path, header: { "If-Match": '"0"' } } };
refused(await orders.POST("/orders/{order_id}/ship", stale), 412, "precondition-failed");

// Page after page, the newest first: another order, the one that was rejected, and the first.
const second = done(await orders.POST("/orders", { body: { ...body, note: null } }), 201);
const seen: Order[] = [];
for (let cursor: string | null | undefined; cursor !== null; ) {
  const query = { user_id: user.id, limit: 1, ...(cursor && { cursor }) };
  const page = done(await orders.GET("/orders", { params: { query } }), 200);
  seen.push(...page.items);
  cursor = page.next_cursor;
}
equal(seen.map((each) => each.status).join(), "confirmed,rejected,confirmed");
equal(seen[0]?.id, second.id);
equal(seen[1]?.rejection?.code, "insufficient-stock");
equal(seen[2]?.id, order.id);

const shipped = await act(order, "ship");
equal(new Date(shipped.shipped_at ?? "").toISOString().slice(0, 19), shipped.shipped_at?.slice(0, 19));
const delivered = await act(shipped, "deliver");
equal(delivered.status, "delivered");
refused(await orders.POST("/orders/{order_id}/cancel", { params: { path } }), 409, "invalid-transition");
const history = done(await orders.GET("/orders/{order_id}/history", { params: { path } }), 200);
equal(history.items.map((each) => each.status).join(), "pending,confirmed,shipped,delivered");
equal((await act(second, "cancel")).status, "cancelled");

const sold = await eventually(async () => {
  const found = await products.GET("/products/{product_id}", { params: { path: { product_id: product.id } } });
  const units = done(found, 200);
  return units.sold === 2 && units.reserved === 0 ? units : undefined;
});
equal(sold.stock, 23);

const confirmation = await eventually(async () => {
  const found = await notifications.GET("/notifications", { params: { query: { order_id: order.id } } });
  return done(found, 200).items.find((each) => each.status === "sent");
});
equal(confirmation.user_id, user.id);
equal(confirmation.channel, "email");

const summary = done(await analytics.GET("/analytics/summary"), 200);
equal(summary.degraded, false);
equal(summary.orders.state, "live");
equal((summary.orders.total ?? 0) >= 2, true);
const best = await analytics.GET("/analytics/products/top", { params: { query: { by: "units", limit: 3 } } });
equal(done(best, 200).items.length <= 3, true);

console.log(JSON.stringify({ delivered: delivered.id, cancelled: second.id }));
