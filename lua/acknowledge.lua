-- acknowledge: take messages off unacked because their functions are about to be entered (acks early).
-- KEYS[1] state     hash    the worker's: acked (counter last served), refused (what was answered)
-- KEYS[2] reserved  set     delivery tags that the worker holds
-- KEYS[3] unacked   hash    delivery tag -> [envelope, exchange, routing key]
-- KEYS[4] index     zset    delivery tag -> delivered at, s since epoch
-- ARGV[1] counter   int     larger than that of the worker's last answered call; the same again repeats the answer
-- ARGV[2...] tags   text    1..1000 delivery tags
-- Returns           [now_ms, position of a refused tag (from 1), ...]: refused is what the worker holds no longer
-- Atomic            a tag is acknowledged to one worker only, however many believe that they hold it
-- Cost              O(tags), one command a tag
--- @include "redis-now"
local state, reserved, unacked, index = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local counter = tonumber(ARGV[1])

local now_ms = redis_now()
local reply = { now_ms }

local recorded = redis.call('HMGET', state, 'acked', 'refused')
local served = tonumber(recorded[1] or -1)
if counter <= served then
  for position in string.gmatch(counter == served and recorded[2] or '', '%d+') do reply[#reply + 1] = tonumber(position) end
  return reply
end
redis.call('ZCARD', index)

local tags = {}
for position = 2, #ARGV do tags[position - 1] = ARGV[position] end
local held = redis.call('SMISMEMBER', reserved, unpack(tags))
local refused = {}
for position, tag in ipairs(tags) do
  if held[position] == 0 or redis.call('HDEL', unacked, tag) == 0 then
    refused[#refused + 1] = position
    reply[#reply + 1] = position
  end
end
if #refused == 0 then
  redis.call('ZREM', index, unpack(tags))
else
  local skip = {}
  for _, position in ipairs(refused) do skip[position] = true end
  for position, tag in ipairs(tags) do
    if not skip[position] then redis.call('ZREM', index, tag) end
  end
end
redis.call('SREM', reserved, unpack(tags))
redis.call('HSET', state, 'acked', counter, 'refused', table.concat(refused, ' '))
return reply
