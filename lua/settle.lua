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

-- Which of the messages that are to be acknowledged now are still held, and what those are that are kept as dead letters.
local tags, dead, is_held, held = {}, {}, {}, {}
for position = first_entry, #ARGV, 5 do
  local tag, mode = ARGV[position], ARGV[position + 1]
  if mode ~= 'acked' then tags[#tags + 1] = tag end
  if mode == 'dead' then dead[tag] = redis.call('HGET', unacked, tag) end
end
if #tags > 0 then
  for i, is_reserved in ipairs(redis.call('SMISMEMBER', reserved, unpack(tags))) do
    local tag = tags[i]
    if is_reserved == 1 and not is_held[tag] and redis.call('HEXISTS', unacked, tag) == 1 then
      is_held[tag] = true
      held[#held + 1] = tag
    end
  end
end

-- Freeing first keeps a Redis that is out of memory drainable: it refuses a script only at its first write.
redis.call('HDEL', state, 'settled')
if #tags > 0 then redis.call('SREM', reserved, unpack(tags)) end
if #held > 0 then
  redis.call('HDEL', unacked, unpack(held))
  redis.call('ZREM', index, unpack(held))
end

local runs = {} -- prefix of a shard's keys -> the runs of it that may end
local next_result = first_result
for position = first_entry, #ARGV, 5 do
  local tag, mode, record, letter, run =
    ARGV[position], ARGV[position + 1], ARGV[position + 2], ARGV[position + 3], ARGV[position + 4]
  local key
  if record ~= '' then
    key = KEYS[next_result]
    next_result = next_result + 1
  end
  local acts = mode == 'acked' or is_held[tag]
  is_held[tag] = nil
  if acts and mode == 'dead' then
    local queue, reason = string.match(letter, '^([^\n]*)\n(.*)$')
    redis.call('XADD', dead_letters, 'MAXLEN', '~', dead_limit, '*', 'queue', queue, 'reason', reason,
      'message', string.match(dead[tag], '^%[(.*), "[^"]*", "[^"]*"%]$') or dead[tag])
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
  if acts and run ~= '' then
    local prefix, outcome, wish, id = string.match(run, '^([^\31]*)\31([^\31]*)\31([^\31]*)\31(.*)$')
    runs[prefix] = runs[prefix] or {}
    table.insert(runs[prefix], { id = id, tag = tag, outcome = outcome, wish = wish ~= '' and wish or nil })
  end
end

-- Ends the runs of a shard whose present attempts these messages are. Nothing is brought back into a namespace that is gone.
local function end_runs(prefix, ended)
  local namespace, shard = string.match(prefix, '^(.*):{(%d+)}:$')
  local meta = redis.call('HMGET', namespace .. ':meta', 'epoch', 'journal')
  if not meta[1] then return end
  local key, ids, earliest = shard_keys(prefix .. 'due'), {}, math.huge
  for i, run in ipairs(ended) do ids[i] = run.id end
  local endings = open_endings(key, ids)
  for _, run in ipairs(ended) do
    local flight = endings.flights[run.id]
    local due = flight and flight.tag == run.tag and complete_run(endings, run.id, now_ms, run.outcome, run.wish)
    if due then earliest = math.min(earliest, due) end
  end
  write_endings(endings)
  if meta[2] == '1' then
    local changes = {}
    for _, id in ipairs(endings.ended) do changes[#changes + 1], changes[#changes + 2] = 'state', state_of(key, id) end
    record_changes(key, meta[1], changes)
  end
  if earliest < now_ms + 1000 then
    redis.call('PUBLISH', namespace .. ':wake', shard .. ':' .. string.format('%.0f', earliest))
  end
end
for prefix, ended in pairs(runs) do end_runs(prefix, ended) end
redis.call('HSET', state, 'settled', counter)
return reply
