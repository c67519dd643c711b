// ioredis as a plain client, through the proxy port: node - <host> <port>.

const assert = require("assert");
const Redis = require("ioredis");

async function main() {
  const [host, port] = process.argv.slice(2);
  const r = new Redis({ host, port: Number(port), commandTimeout: 20000, retryStrategy: null });
  assert.equal(await r.ping(), "PONG");
  console.log("ok ping");
  assert.equal(await r.set("js:a", "1", "EX", 100), "OK");
  assert.equal(await r.get("js:a"), "1");
  const ttl = await r.ttl("js:a");
  assert.ok(ttl >= 90 && ttl <= 100, `ttl ${ttl}`);
  assert.equal(await r.del("js:a"), 1);
  console.log("ok set/get/ttl/del");
  const numbers = [...Array(500).keys()];
  const oks = numbers.map(() => "OK");
  assert.deepEqual(await Promise.all(numbers.map((i) => r.set(`js:${i}`, i))), oks);
  assert.deepEqual(await Promise.all(numbers.map((i) => r.get(`js:${i}`))), numbers.map(String));
  console.log("ok 500 at once");
  r.disconnect();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
