-- restore: give messages that were taken and not finished back to their queues, to be taken next.
-- KEYS[1] workers       zset    worker id -> last heartbeat, ms since epoch
-- KEYS[2] state         hash    the holder's, see reserve and start
-- KEYS[3] reserved      set     delivery tags that the holder holds
-- KEYS[4] unacked       hash    delivery tag -> [envelope, exchange, routing key]
-- KEYS[5] index         zset    delivery tag -> delivered at, s since epoch
-- KEYS[6] dead_letters  stream  messages that were given up
-- KEYS[7] started       set     those of the holder's tags whose late-acknowledged tasks have started
-- KEYS[8] crashes       hash    delivery tag -> how many workers died of that message
-- KEYS[9] direct        list    what the holder's last reserve acknowledged
-- KEYS[10...] lists      list    where messages go back to
-- ARGV[1] worker_id     text    the holder, forgotten once it holds nothing; '' when messages are restored by their age
-- ARGV[2] lease         int     act only if the holder's last heartbeat is further from now than this, ms; 0: however far
-- ARGV[3] dead_limit    int     entries that the dead letters keep, about
-- ARGV[4...] entries    text    in fours: tag; score it had in index, '' when none; number of its list
--                               (from 1), 0: keep it as a dead letter; envelope to put back, or reason
-- Returns               [now_ms, restored, given up, messages the holder still holds, tag given up for its crashes, ...]
-- Atomic                acts on a message only if it is in unacked with an unchanged score: of several who restore it, one does
-- Cost                  O(entries), ten commands an entry
--- @include "redis-now"
local workers, state, reserved, unacked, index, dead_letters = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local started, crashes, direct = KEYS[7], KEYS[8], KEYS[9]
local worker_id, lease, dead_limit = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local first_list, first_entry, CRASHES_SEC = 10, 4, 604800

local now_ms = redis_now()
if lease > 0 then
  local seen_ms = tonumber(redis.call('ZSCORE', workers, worker_id) or now_ms)
  if math.abs(now_ms - seen_ms) <= lease then return { now_ms, 0, 0, 0 } end
end
redis.call('ZCARD', workers)
redis.call('SCARD', reserved)
redis.call('HLEN', unacked)
redis.call('ZCARD', index)
redis.call('XLEN', dead_letters)
redis.call('SCARD', started)
redis.call('HLEN', crashes)
local usable = {}
for position = first_list, #KEYS do
  local type = redis.call('TYPE', KEYS[position]).ok
  usable[position - first_list + 1] = type == 'list' or type == 'none'
end

-- Who leaves did not die of what it ran.
local max_crashes = lease > 0 and tonumber(redis.call('HGET', state, 'max_crashes') or nil) or math.huge
local restored, given_up, deadly = 0, 0, {}
for position = first_entry, #ARGV, 4 do
  local tag, score, list, text = ARGV[position], ARGV[position + 1], tonumber(ARGV[position + 2]), ARGV[position + 3]
  local value = redis.call('HGET', unacked, tag)
  if not value then
    redis.call('ZREM', index, tag)
    redis.call('SREM', reserved, tag)
  elseif (redis.call('ZSCORE', index, tag) or '') == score then
    redis.call('HDEL', unacked, tag)
    redis.call('ZREM', index, tag)
    redis.call('SREM', reserved, tag)
    local times = 0
    if redis.call('SREM', started, tag) == 1 and max_crashes < math.huge then
      times = redis.call('HINCRBY', crashes, tag, 1)
      redis.call('EXPIRE', crashes, CRASHES_SEC)
    end
    if usable[list] and times >= max_crashes then
      redis.call('HDEL', crashes, tag)
      redis.call('XADD', dead_letters, 'MAXLEN', '~', dead_limit, '*', 'queue', KEYS[first_list + list - 1],
        'reason', 'its worker died in each of ' .. times .. ' runs', 'message', text)
      given_up = given_up + 1
      deadly[#deadly + 1] = tag
    elseif usable[list] then
      redis.call('RPUSH', KEYS[first_list + list - 1], text)
      restored = restored + 1
    else
      local queue = list > 0 and KEYS[first_list + list - 1] or ''
      redis.call('XADD', dead_letters, 'MAXLEN', '~', dead_limit, '*', 'queue', queue,
        'reason', list > 0 and 'its queue is a key of another type' or text,
        'message', string.match(value, '^%[(.*), "[^"]*", "[^"]*"%]$') or value)
      given_up = given_up + 1
    end
  end
end

local left = redis.call('SCARD', reserved)
if worker_id ~= '' and left == 0 then
  redis.call('ZREM', workers, worker_id)
  redis.call('DEL', state, started, direct)
end
return { now_ms, restored, given_up, left, unpack(deadly) }
