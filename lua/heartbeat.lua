-- heartbeat: say that a beat node lives, and learn who else does.
-- KEYS[1] meta            hash    namespace record
-- KEYS[2] nodes           zset    node id -> Redis time of its last heartbeat, ms
-- KEYS[3] node_info       hash    node id -> JSON of what the API shows
-- ARGV[1] epoch           text    of the namespace, as the caller knows it
-- ARGV[2] node            text    node id
-- ARGV[3] info            text    JSON
-- ARGV[4] lease           int     a node silent for longer, ms, is dead
-- ARGV[5] expected_now    int     what the caller thinks Redis TIME is, ms; 0 when it has not seen Redis steady for a whole
--                                 lease. Others are judged dead only when that is right: else the clock has just stepped
-- ARGV[6] wake_channel    text    told `members` when the set of nodes changed
-- Returns                 [now ms, [node id, ...] alive, [field, value, ...] of meta]
-- Errors                  NAMESPACE_GONE
-- Cost                    O(nodes)
--- @include "redis-now"
local meta, nodes, node_info = KEYS[1], KEYS[2], KEYS[3]
local epoch, node, info = ARGV[1], ARGV[2], ARGV[3]
local lease, expected_now, wake_channel = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]

if redis.call('HGET', meta, 'epoch') ~= epoch then return redis.error_reply('NAMESPACE_GONE') end

local now = redis_now()
-- Redis refuses a script that grows memory only at its first write, and who serves a full Redis must still be known.
redis.call('HDEL', node_info, '')
local changed = redis.call('ZADD', nodes, now, node) == 1
redis.call('HSET', node_info, node, info)
if math.abs(now - expected_now) <= 1000 then
  local dead = redis.call('ZRANGEBYSCORE', nodes, '-inf', '(' .. now - lease, 'LIMIT', 0, 100)
  -- Heartbeats from before the clock stepped back: who lives has sent another since.
  for _, ahead in ipairs(redis.call('ZRANGEBYSCORE', nodes, '(' .. now + lease, '+inf', 'LIMIT', 0, 100)) do dead[#dead + 1] = ahead end
  if #dead > 0 then
    redis.call('ZREM', nodes, unpack(dead))
    redis.call('HDEL', node_info, unpack(dead))
    changed = true
  end
end
if changed then redis.call('PUBLISH', wake_channel, 'members') end
return { now, redis.call('ZRANGE', nodes, 0, 999), redis.call('HGETALL', meta) }
