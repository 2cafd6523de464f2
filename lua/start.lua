-- start: take messages off unacked whose functions are about to be entered (acks early); others are waiting no longer (acks late).
-- KEYS[1] state     hash    the worker's: started (counter last served), refused (the rest of what was answered), max_crashes
-- KEYS[2] reserved  set     delivery tags that the worker holds
-- KEYS[3] waiting   set     those of them whose tasks have not started
-- KEYS[4] unacked   hash    delivery tag -> [envelope, exchange, routing key]
-- KEYS[5] index     zset    delivery tag -> delivered at, s since epoch
-- KEYS[6] crashes   hash    delivery tag -> how many workers died of that message
-- ARGV[1] counter   int     larger than that of the worker's last answered call; the same again repeats the answer
-- ARGV[2] early     int     how many of the tags are acknowledged now: the first ones
-- ARGV[3] most      int     workers that may die of a message before it is given up
-- ARGV[4] alone     int     1: one message may start that would be given up if the worker died once more; 0: none
-- ARGV[5...] tags   text    1..1000 delivery tags
-- Returns           [now_ms, position of the one that started on its last chance (from 1) or 0, position of a tag that is not
--                   started, ...]: positive where the worker holds it no longer, negative where it has to wait for its last chance
-- Atomic            a tag is started by one worker only, however many believe that they hold it
-- Cost              O(tags), a handful of commands whatever their number
--- @include "redis-now"
local state, reserved, waiting, unacked, index = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local crashes = KEYS[6]
local counter, early, most, alone = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local first_tag = 5

local now_ms = redis_now()
local reply = { now_ms, 0 }

local recorded = redis.call('HMGET', state, 'started', 'refused')
local served = tonumber(recorded[1] or -1)
if counter <= served then
  local answered = { now_ms }
  for position in string.gmatch(counter == served and recorded[2] or '0', '%-?%d+') do
    answered[#answered + 1] = tonumber(position)
  end
  return answered
end
redis.call('HLEN', unacked)
redis.call('SCARD', waiting)
redis.call('HLEN', crashes)

local tags = {}
for position = first_tag, #ARGV do tags[#tags + 1] = ARGV[position] end
local is_held = redis.call('SMISMEMBER', reserved, unpack(tags))
local is_unacked = redis.call('ZMSCORE', index, unpack(tags))
-- Which would be given up if the worker died of them, or beside them, once more.
local is_last = {}
if early < #tags and redis.call('HLEN', crashes) > 0 then
  local late = { unpack(tags, early + 1) }
  for at, times in ipairs(redis.call('HMGET', crashes, unpack(late))) do
    is_last[early + at] = times and tonumber(times) >= most - 1
  end
end
local acknowledged, starting = {}, {}
for position, tag in ipairs(tags) do
  if is_held[position] == 0 or not is_unacked[position] then
    reply[#reply + 1] = position
  elseif position <= early then
    acknowledged[#acknowledged + 1] = tag
    starting[#starting + 1] = tag
  elseif is_last[position] and not alone then
    reply[#reply + 1] = -position
  else
    if is_last[position] then
      reply[2] = position
      alone = false
    end
    starting[#starting + 1] = tag
  end
end
-- Freeing first keeps a Redis that is out of memory drainable: it refuses a script only at its first write.
redis.call('HDEL', state, 'started')
if #acknowledged > 0 then
  redis.call('HDEL', unacked, unpack(acknowledged))
  redis.call('ZREM', index, unpack(acknowledged))
  redis.call('SREM', reserved, unpack(acknowledged))
end
if #starting > 0 then redis.call('SREM', waiting, unpack(starting)) end
redis.call('HSET', state, 'started', counter, 'refused', table.concat(reply, ' ', 2), 'max_crashes', most)
return reply
