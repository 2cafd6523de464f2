-- refill-times: store what was computed further of a shard's calendars and exclusions, and find the next runs that waited for it.
-- KEYS[1] meta            hash    namespace record
-- KEYS[2] due_key         zset    of the shard; its other keys are named by the same prefix (lua/keys.ts)
-- ARGV[1] epoch           text    of the namespace, as the caller knows it
-- ARGV[2] limit           int     1..500 claims looked at in this call
-- ARGV[3..] refills       text    in fours: number; the first 15 digits of its times as they were read, '' for none; times that
--                                 continue them (lua/times.ts); when to compute them further, ms
-- Returns                 [next runs found, the earliest of them (-1: none), claims that still wait]
-- Errors                  NAMESPACE_GONE
-- Atomic                  times are only continued where they end; of several who compute them, one does
-- Cost                    O(refills + claims)
--- @include "redis-now"
--- @include "shard-keys"
--- @include "times"
--- @include "next-run"
local meta, due_key = KEYS[1], KEYS[2]
local epoch, limit = ARGV[1], tonumber(ARGV[2])
local MAX_TIMES = 20000

if redis.call('HGET', meta, 'epoch') ~= epoch then return redis.error_reply('NAMESPACE_GONE') end

local key = shard_keys(due_key)
local now = redis_now()
local function head_of(name)
  local head = redis.call('ZRANGE', name, 0, 0, 'WITHSCORES')
  return head[2] and math.floor(tonumber(head[2])) or math.huge
end
-- Nobody asks for what lies before the oldest due time that waits.
local oldest = math.min(now, head_of(key.due), head_of(key.missed), head_of(key.claims))

local function store(number, times, refill_at)
  redis.call('HSET', key.times, number, times)
  if time_at(times, 0) == SERIES_END then
    redis.call('ZREM', key.refills, number)
  else
    redis.call('ZADD', key.refills, refill_at, number)
  end
  known_times[key.times .. number] = times
end

for i = 3, #ARGV, 4 do
  local number, read_until, more, refill_at = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local times = redis.call('HGET', key.times, number)
  if redis.call('HEXISTS', key.templates, number) == 0 then
    redis.call('HDEL', key.times, number)
    redis.call('ZREM', key.refills, number)
  elseif not times and read_until == '' then
    store(number, more, refill_at)
  elseif times and time_at(times, 0) == read_until then
    local is_exclusion = string.sub(redis.call('HGET', key.templates, number), 1, 10) == 'exclusion\31'
    local step, first = is_exclusion and 2 or 1, is_exclusion and 2 or 1
    -- One from before is kept: with jitter its run may still come.
    local keep_from = math.max(position_after(times, oldest, first, step) - step - first + 1, 1)
    -- Never too many: what was missed so long ago is passed over.
    local kept = string.sub(times, math.max(keep_from, #times / WIDTH - MAX_TIMES) * WIDTH + 1)
    store(number, string.sub(more, 1, WIDTH) .. kept .. string.sub(more, WIDTH + 1), refill_at)
  end
end

local found, earliest = 0, math.huge
local claims = redis.call('ZRANGE', key.claims, 0, limit - 1, 'WITHSCORES')
for i = 1, #claims, 2 do
  local id, after = claims[i], tonumber(claims[i + 1])
  local text, finish = string.match(redis.call('HGET', key.definitions, id) or '', '^[^\31]*\31[^\31]*\31([^\31]*)\31([^\31]*)\31')
  local timing = text and timing_of(text)
  local due, reached = nil, nil
  if timing then due, reached = next_due(key, id, timing, tonumber(finish), after) end
  if due then
    redis.call('ZADD', key.due, due, id)
    found, earliest = found + 1, math.min(earliest, due)
  elseif due == nil and timing and timing.kind == 'o' then
    redis.call('ZADD', key.completed, now, id)
  end
  if due ~= false then
    redis.call('ZREM', key.claims, id)
  elseif reached > after then
    -- What was looked through need not be again, nor kept.
    redis.call('ZADD', key.claims, reached, id)
  end
end
return { found, earliest < math.huge and earliest or -1, redis.call('ZCARD', key.claims) }
