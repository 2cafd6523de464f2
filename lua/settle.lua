-- settle: finish messages: store results, take late-acknowledged ones off unacked, keep undecodable ones as dead letters.
-- KEYS[1] state         hash    the worker's: settled (counter last served)
-- KEYS[2] reserved      set     delivery tags that the worker holds
-- KEYS[3] unacked       hash    delivery tag -> [envelope, exchange, routing key]
-- KEYS[4] index         zset    delivery tag -> delivered at, s since epoch
-- KEYS[5] dead_letters  stream  messages that were given up
-- KEYS[6...] results    string  result records, one for every entry that has a record; also the channel's name
-- ARGV[1] counter       int     larger than that of the worker's last answered call; the same again changes nothing
-- ARGV[2] expires       int     s that a result is kept; 0: for ever
-- ARGV[3] dead_limit    int     entries that the dead letters keep, about
-- ARGV[4...] entries    text    in fives: tag; `acked` (was taken off unacked before), `held` (acts only if it still is in
--                               unacked) or `dead` (as held, and kept as a dead letter); record or ''; `<queue>\n<reason>` or '';
--                               '' or the run that ends, by \31: prefix of its shard's keys, success or failure, '' or a loop's
--                               wish (ms, stop), schedule id
-- Returns               [now_ms, how many entries came too late: their messages were restored meanwhile]
-- Atomic                a late-acknowledged message is gone exactly when its result is stored; success is final
-- Cost                  O(entries), up to seven commands an entry, ten more where a run ends
--- @include "redis-now"
--- @include "is-success"
--- @include "shard-keys"
--- @include "times"
--- @include "next-run"
--- @include "record-change"
--- @include "complete-run"
local state, reserved, unacked, index, dead_letters = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local counter, expires, dead_limit = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local first_result, first_entry = 6, 4

local now_ms = redis_now()
local reply = { now_ms, 0 }
if counter <= tonumber(redis.call('HGET', state, 'settled') or -1) then return reply end
redis.call('HLEN', unacked)
redis.call('ZCARD', index)
redis.call('SCARD', reserved)
redis.call('XLEN', dead_letters)

local final = {}
if #KEYS >= first_result then
  local keys = {}
  for position = first_result, #KEYS do keys[#keys + 1] = KEYS[position] end
  for position, record in ipairs(redis.call('MGET', unpack(keys))) do final[keys[position]] = is_success(record) end
end

-- Freeing first keeps a Redis that is out of memory drainable: it refuses a script only at its first write.
redis.call('HDEL', state, 'settled')

-- By shard: its keys, what its namespace says, the changes to be recorded, and when something is due soonest.
local shards = {}
local function shard_of(prefix)
  if not shards[prefix] then
    local namespace, number = string.match(prefix, '^(.*):{(%d+)}:$')
    local meta = redis.call('HMGET', namespace .. ':meta', 'epoch', 'journal')
    shards[prefix] = {
      key = shard_keys(prefix .. 'due'), number = number, wake = namespace .. ':wake', epoch = meta[1], is_journaled = meta[2] == '1',
      changes = {}, earliest = math.huge,
    }
  end
  return shards[prefix]
end

-- Ends a run in flight, if this message is its present attempt. Nothing is brought back into a namespace that is gone.
local function end_run(tag, run)
  local prefix, outcome, wish, id = string.match(run, '^([^\31]*)\31([^\31]*)\31([^\31]*)\31(.*)$')
  local shard = shard_of(prefix)
  local flight = shard.epoch and redis.call('HGET', shard.key.journal, id)
  flight = flight and journal_fields(flight)
  if not flight or flight.tag ~= tag then return end
  local due = complete_run(shard.key, id, flight, now_ms, outcome, wish ~= '' and wish or nil)
  if due then shard.earliest = math.min(shard.earliest, due) end
  if shard.is_journaled then
    local changes = shard.changes
    changes[#changes + 1], changes[#changes + 2] = 'state', state_of(shard.key, id)
  end
end

local next_result = first_result
for position = first_entry, #ARGV, 5 do
  local tag, mode, record, letter, run =
    ARGV[position], ARGV[position + 1], ARGV[position + 2], ARGV[position + 3], ARGV[position + 4]
  local key
  if record ~= '' then
    key = KEYS[next_result]
    next_result = next_result + 1
  end
  local acts = mode == 'acked'
  if not acts and redis.call('SREM', reserved, tag) == 1 then
    local value = mode == 'dead' and redis.call('HGET', unacked, tag)
    acts = redis.call('HDEL', unacked, tag) == 1
    if acts then redis.call('ZREM', index, tag) end
    if value then
      local queue, reason = string.match(letter, '^([^\n]*)\n(.*)$')
      redis.call('XADD', dead_letters, 'MAXLEN', '~', dead_limit, '*', 'queue', queue, 'reason', reason,
        'message', string.match(value, '^%[(.*), "[^"]*", "[^"]*"%]$') or value)
    end
  end
  if not acts then
    reply[2] = reply[2] + 1
  elseif key and not final[key] then
    if expires > 0 then
      redis.call('SETEX', key, expires, record)
    else
      redis.call('SET', key, record)
    end
    redis.call('PUBLISH', key, record)
    final[key] = is_success(record)
  end
  if acts and run ~= '' then end_run(tag, run) end
end
for _, shard in pairs(shards) do
  record_changes(shard.key, shard.epoch, shard.changes)
  if shard.earliest < now_ms + 1000 then
    redis.call('PUBLISH', shard.wake, shard.number .. ':' .. string.format('%.0f', shard.earliest))
  end
end
redis.call('HSET', state, 'settled', counter)
return reply
