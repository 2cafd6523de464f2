-- start: take messages off unacked whose functions are about to be entered (acks early), and note which others are (acks late).
-- KEYS[1] state     hash    the worker's: started (counter last served), refused (what was answered), max_crashes
-- KEYS[2] reserved  set     delivery tags that the worker holds
-- KEYS[3] started   set     those of them whose late-acknowledged tasks have started
-- KEYS[4] unacked   hash    delivery tag -> [envelope, exchange, routing key]
-- KEYS[5] index     zset    delivery tag -> delivered at, s since epoch
-- ARGV[1] counter   int     larger than that of the worker's last answered call; the same again repeats the answer
-- ARGV[2] early     int     how many of the tags are acknowledged now: the first ones
-- ARGV[3] crashes   int     workers that may die of a message before it is given up
-- ARGV[4...] tags   text    1..1000 delivery tags
-- Returns           [now_ms, position of a refused tag (from 1), ...]: refused is what the worker holds no longer
-- Atomic            a tag is started by one worker only, however many believe that they hold it
-- Cost              O(tags), a handful of commands whatever their number
--- @include "redis-now"
local state, reserved, started, unacked, index = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local counter, early, crashes = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local first_tag = 4

local now_ms = redis_now()
local reply = { now_ms }

local recorded = redis.call('HMGET', state, 'started', 'refused')
local served = tonumber(recorded[1] or -1)
if counter <= served then
  for position in string.gmatch(counter == served and recorded[2] or '', '%d+') do reply[#reply + 1] = tonumber(position) end
  return reply
end
redis.call('HLEN', unacked)
redis.call('SCARD', started)

local tags = {}
for position = first_tag, #ARGV do tags[#tags + 1] = ARGV[position] end
local is_held = redis.call('SMISMEMBER', reserved, unpack(tags))
local is_unacked = redis.call('ZMSCORE', index, unpack(tags))
local acknowledged, kept = {}, {}
for position, tag in ipairs(tags) do
  if is_held[position] == 0 or not is_unacked[position] then
    reply[#reply + 1] = position
  elseif position <= early then
    acknowledged[#acknowledged + 1] = tag
  else
    kept[#kept + 1] = tag
  end
end
-- Freeing first keeps a Redis that is out of memory drainable: it refuses a script only at its first write.
redis.call('HDEL', state, 'started')
if #acknowledged > 0 then
  redis.call('HDEL', unacked, unpack(acknowledged))
  redis.call('ZREM', index, unpack(acknowledged))
  redis.call('SREM', reserved, unpack(acknowledged))
end
if #kept > 0 then redis.call('SADD', started, unpack(kept)) end
redis.call('HSET', state, 'started', counter, 'refused', table.concat(reply, ' ', 2), 'max_crashes', crashes)
return reply
