"""redis-py as a cluster client: python3 - <host> <port>."""

import sys

import redis
from redis.cluster import RedisCluster

r = RedisCluster(host=sys.argv[1], port=int(sys.argv[2]), decode_responses=True, socket_timeout=20)

nodes = r.get_nodes()
assert len(nodes) >= 3, nodes
print(f"ok {len(nodes)} nodes")

for i in range(300):
    assert r.set(f"pyc:{i}", i) is True
owners = {r.get_node_from_key(f"pyc:{i}").name for i in range(300)}
assert len(owners) >= 2, owners
assert [r.get(f"pyc:{i}") for i in range(300)] == [str(i) for i in range(300)]
print(f"ok 300 keys on {len(owners)} nodes")

pipe = r.pipeline()
for i in range(300):
    pipe.incr(f"pyc:{i}")
assert pipe.execute() == [i + 1 for i in range(300)]
print("ok pipeline over all slots")
