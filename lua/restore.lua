-- restore: give messages that were taken and not finished back to their queues, to be taken next.
-- KEYS[1] workers       zset    worker id -> last heartbeat, ms since epoch
-- KEYS[2] state         hash    the holder's, see reserve and start
-- KEYS[3] reserved      set     delivery tags that the holder holds
-- KEYS[4] unacked       hash    delivery tag -> [envelope, exchange, routing key]
-- KEYS[5] index         zset    delivery tag -> delivered at, s since epoch
-- KEYS[6] dead_letters  stream  messages that were given up
-- KEYS[7] waiting       set     those of the holder's tags whose tasks have not started
-- KEYS[8] crashes       hash    delivery tag -> how many workers died of that message
-- KEYS[9] direct        list    what the holder's last reserve acknowledged
-- KEYS[10] chords       hash    group id -> what follows the chord, of those whose body is yet to be sent
-- KEYS[11...] lists      list    where messages go back to
-- ARGV[1] worker_id     text    the holder, forgotten once it holds nothing; '' when messages are restored by their age
-- ARGV[2] lease         int     act only if the holder's last heartbeat is further from now than this, ms; 0: however far
-- ARGV[3] dead_limit    int     entries that the dead letters keep, about
-- ARGV[4] expires       int     s that results are kept; 0: for ever
-- ARGV[5...] entries    text    tag; score it had in index, '' when none; number of its list (from 1), 0: keep it as a dead letter;
--                               envelope to put back, or reason; how many actions follow, which happen when it is given up for
--                               its crashes, each: its kind (lua/include/actions.lua, or `chord`: chord-part.lua) and four texts
-- Returns               [now_ms, restored, given up, messages the holder still holds]
-- Atomic                acts on a message only if it is in unacked with an unchanged score: of several who restore it, one does
-- Cost                  O(entries), ten commands an entry
--- @include "redis-now"
--- @include "is-success"
--- @include "shard-keys"
--- @include "parked"
--- @include "release"
--- @include "actions"
--- @include "chord-part"
local workers, state, reserved, unacked, index, dead_letters = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local waiting, crashes, direct, chords = KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local worker_id, lease, dead_limit, expires = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local first_list, first_entry, ENTRY, ACTION, CRASHES_SEC = 11, 5, 5, 5, 604800

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
redis.call('SCARD', waiting)
redis.call('HLEN', crashes)
redis.call('HLEN', chords)
local usable = {}
for position = first_list, #KEYS do
  local type = redis.call('TYPE', KEYS[position]).ok
  usable[position - first_list + 1] = type == 'list' or type == 'none'
end

-- What waits for its eta is parked by the worker that takes it.
local actions = open_actions({
  expires = expires,
  dead_letters = dead_letters,
  dead_limit = dead_limit,
  now_ms = now_ms,
  has_shards = false,
})

-- The failure of a message that is given up, and what follows that. A chord that it completes is left to the worker that looks next.
local function carry_out(first, last)
  for action = first, last, ACTION do
    local kind, one, two, three, four = unpack(ARGV, action, action + ACTION - 1)
    if kind ~= 'chord' then
      actions.by_kind[kind](one, two, three, four)
    elseif count_part(chords, state, expires, one, two, three, four) then
      redis.call('DEL', 'celery-taskset-meta-' .. one .. '.c')
    end
  end
end

-- Who leaves did not die of what it ran.
local max_crashes = lease > 0 and tonumber(redis.call('HGET', state, 'max_crashes') or nil) or math.huge
local restored, given_up = 0, 0
local position = first_entry
while position <= #ARGV do
  local tag, score, list, text = ARGV[position], ARGV[position + 1], tonumber(ARGV[position + 2]), ARGV[position + 3]
  local first_action = position + ENTRY
  position = first_action + ACTION * tonumber(ARGV[position + 4])
  local value = redis.call('HGET', unacked, tag)
  if not value then
    release(unacked, index, reserved, waiting, tag)
  elseif (redis.call('ZSCORE', index, tag) or '') == score then
    local was_held, was_waiting = release(unacked, index, reserved, waiting, tag)
    local times = 0
    if was_held and not was_waiting and max_crashes < math.huge then
      times = redis.call('HINCRBY', crashes, tag, 1)
      redis.call('EXPIRE', crashes, CRASHES_SEC)
    end
    if usable[list] and times >= max_crashes then
      redis.call('HDEL', crashes, tag)
      actions.keep_dead(KEYS[first_list + list - 1], 'its worker died in each of ' .. times .. ' runs', text)
      given_up = given_up + 1
      carry_out(first_action, position - 1)
    elseif usable[list] then
      redis.call('RPUSH', KEYS[first_list + list - 1], text)
      restored = restored + 1
    else
      local queue = list > 0 and KEYS[first_list + list - 1] or ''
      local reason = list > 0 and 'its queue is a key of another type' or text
      actions.keep_dead(queue, reason, string.match(value, '^%[(.*), "[^"]*", "[^"]*"%]$') or value)
      given_up = given_up + 1
    end
  end
end

local left = redis.call('SCARD', reserved)
if worker_id ~= '' and left == 0 then
  redis.call('ZREM', workers, worker_id)
  redis.call('DEL', state, waiting, direct)
end
return { now_ms, restored, given_up, left }
