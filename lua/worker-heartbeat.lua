-- worker-heartbeat: say that a worker lives, and learn whether its namespace has beat nodes.
-- KEYS[1] workers     zset    worker id -> last heartbeat, ms since epoch
-- KEYS[2] nodes       zset    beat node id -> last heartbeat, ms since epoch
-- KEYS[3] meta        hash    the namespace's record
-- ARGV[1] worker_id   text
-- ARGV[2] beat_lease  int     ms for which a beat node's heartbeat counts
-- Returns             [now_ms, live beat nodes, shards of the namespace or 0]
-- Atomic              all is as of one instant
-- Cost                O(log workers)
--- @include "redis-now"
local workers, nodes, meta = KEYS[1], KEYS[2], KEYS[3]
local worker_id, beat_lease = ARGV[1], tonumber(ARGV[2])

local now_ms = redis_now()
local beats = redis.call('ZCOUNT', nodes, now_ms - beat_lease, '+inf')
local shards = tonumber(redis.call('HGET', meta, 'shards') or 0)
-- Removing first is what a Redis that is out of memory allows; who drains it must not be taken for dead.
redis.call('ZREM', workers, worker_id)
redis.call('ZADD', workers, now_ms, worker_id)
return { now_ms, beats, shards }
