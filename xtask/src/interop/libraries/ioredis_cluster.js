// ioredis as a cluster client: node - <host> <port>.

const assert = require("assert");
const Redis = require("ioredis");

async function main() {
  const [host, port] = process.argv.slice(2);
  const r = new Redis.Cluster([{ host, port: Number(port) }], {
    clusterRetryStrategy: () => null,
    redisOptions: { commandTimeout: 20000 },
  });
  const numbers = [...Array(300).keys()];
  const oks = numbers.map(() => "OK");
  assert.deepEqual(await Promise.all(numbers.map((i) => r.set(`jsc:${i}`, i))), oks);
  assert.deepEqual(await Promise.all(numbers.map((i) => r.get(`jsc:${i}`))), numbers.map(String));
  console.log("ok 300 keys at once");
  const nodes = r.nodes("all").length;
  assert.ok(nodes >= 3, `${nodes} nodes`);
  console.log(`ok ${nodes} nodes`);
  r.disconnect();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
