-- heartbeat: say that a beat node lives, and learn who else does.
-- KEYS[1] meta            hash    namespace record
-- KEYS[2] nodes           zset    node id -> Redis time of its last heartbeat, ms
-- KEYS[3] node_info       hash    node id -> JSON of what the API shows
-- ARGV[1] epoch           text    of the namespace, as the caller knows it
-- ARGV[2] node            text    node id
-- ARGV[3] info            text    JSON
-- ARGV[4] lease_ms        int     a node silent for longer is dead
-- ARGV[5] may_judge       int     1 when the caller has seen Redis steady for a whole lease: only then are others removed
-- ARGV[6] wake_channel    text    told `members` when the set of nodes changed
-- Returns                 [now ms, [node id, ...] alive, [field, value, ...] of meta]
-- Errors                  NAMESPACE_GONE
-- Cost                    O(nodes)
--- @include "redis-now"
local meta, nodes, node_info = KEYS[1], KEYS[2], KEYS[3]
local epoch, node, info = ARGV[1], ARGV[2], ARGV[3]
local lease, may_judge, wake_channel = tonumber(ARGV[4]), ARGV[5] == '1', ARGV[6]

if redis.call('HGET', meta, 'epoch') ~= epoch then return redis.error_reply('NAMESPACE_GONE') end

local now = redis_now()
local changed = redis.call('ZADD', nodes, now, node) == 1
redis.call('HSET', node_info, node, info)
if may_judge then
  local dead = redis.call('ZRANGEBYSCORE', nodes, '-inf', '(' .. now - lease, 'LIMIT', 0, 100)
  if #dead > 0 then
    redis.call('ZREM', nodes, unpack(dead))
    redis.call('HDEL', node_info, unpack(dead))
    changed = true
  end
end
if changed then redis.call('PUBLISH', wake_channel, 'members') end
return { now, redis.call('ZRANGE', nodes, 0, 999), redis.call('HGETALL', meta) }
