"""redis-py as a plain client, through the proxy port: python3 - <host> <port>."""

import sys

import redis

r = redis.Redis(host=sys.argv[1], port=int(sys.argv[2]), decode_responses=True, socket_timeout=20)
print("ok version", redis.__version__)

assert r.ping() is True
print("ok ping")

assert r.set("py:a", "1") is True
assert r.get("py:a") == "1"
assert r.delete("py:a") == 1
assert r.get("py:a") is None
print("ok set/get/delete")

r.delete("py:n")
assert [r.incr("py:n") for _ in range(3)] == [1, 2, 3]
print("ok incr")

assert r.set("py:t", "v", ex=100) is True
assert 90 <= r.ttl("py:t") <= 100
print("ok expiry")

r.set("{py}x", "1")
r.set("{py}y", "2")
assert r.mget("{py}x", "{py}none", "{py}y") == ["1", None, "2"]
print("ok mget")

pipe = r.pipeline(transaction=False)
for i in range(500):
    pipe.set(f"py:p:{i}", i)
assert pipe.execute() == [True] * 500
for i in range(500):
    pipe.get(f"py:p:{i}")
assert pipe.execute() == [str(i) for i in range(500)]
print("ok pipeline of 500")

value = bytes(range(256)) * 256
raw = redis.Redis(host=sys.argv[1], port=int(sys.argv[2]), socket_timeout=20)
raw.set("py:binary", value)
assert raw.get("py:binary") == value
print("ok 64 KiB of arbitrary bytes")

try:
    r.mget("a", "b")
except redis.ResponseError as error:
    assert "CROSSSLOT" in str(error) or "same slot" in str(error).lower(), error
else:
    raise AssertionError("MGET across slots was not refused")
print("ok crossslot")
