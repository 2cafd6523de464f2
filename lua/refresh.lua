-- refresh: say that messages are still being held, so that no consumer takes them for lost.
-- KEYS[1] reserved  set     delivery tags that the worker holds
-- KEYS[2] unacked   hash    delivery tag -> [envelope, exchange, routing key]
-- KEYS[3] index     zset    delivery tag -> delivered at, s since epoch
-- ARGV[1...] tags   text    1..1000 delivery tags
-- Returns           [now_ms, position of a tag that the worker holds no longer (from 1), ...]
-- Atomic            only what the worker still holds is refreshed
-- Cost              O(tags), two commands a tag
--- @include "redis-now"
local reserved, unacked, index = KEYS[1], KEYS[2], KEYS[3]

local now_ms, now_us = redis_now()
local score = string.sub(now_us, 1, -7) .. '.' .. string.sub(now_us, -6)
local reply = { now_ms }
-- Redis refuses a script that grows memory only at its first write, and a full Redis needs its workers most.
redis.call('ZREM', index, '')
local held = redis.call('SMISMEMBER', reserved, unpack(ARGV))
for position, tag in ipairs(ARGV) do
  if held[position] == 1 and redis.call('HEXISTS', unacked, tag) == 1 then
    redis.call('ZADD', index, 'XX', score, tag)
  else
    reply[#reply + 1] = position
  end
end
return reply
