-- settle: finish messages: store results, take late-acknowledged ones off unacked, send what follows, keep undecodable ones.
-- KEYS[1] state         hash    the worker's: settled (counter last served), chords (what was answered)
-- KEYS[2] reserved      set     delivery tags that the worker holds
-- KEYS[3] started       set     those of them whose late-acknowledged tasks have started
-- KEYS[4] unacked       hash    delivery tag -> [envelope, exchange, routing key]
-- KEYS[5] index         zset    delivery tag -> delivered at, s since epoch
-- KEYS[6] dead_letters  stream  messages that were given up
-- KEYS[7] crashes       hash    delivery tag -> how many workers died of that message
-- KEYS[8] meta          hash    the namespace's record
-- KEYS[9] chords       hash    group id -> what follows the chord, of those whose body is yet to be sent
-- KEYS[10...] results   string  result records, one for every entry that has a record; also the channel's name
-- ARGV[1] counter       int     larger than that of the worker's last answered call; the same again changes nothing
-- ARGV[2] expires       int     s that a result is kept; 0: for ever
-- ARGV[3] dead_limit    int     entries that the dead letters keep, about
-- ARGV[4] shards        int     how many shards the caller believes the namespace has; 0: nothing can be parked
-- ARGV[5...] entries    text    tag; `acked` (was taken off unacked before), `held` (acts only if it still is in unacked) or
--                               `dead` (as held, and kept as a dead letter); record or ''; `<queue>\n<reason>` or ''; '' or the
--                               run that ends, by \31: prefix of its shard's keys, success, failure or retry, '' or a loop's wish
--                               (ms, stop) or the next message (by \30: tag, eta, list), schedule id; how many actions follow,
--                               each: its kind (see `own_actions` and lua/include/actions.lua) and four texts
-- Returns               [now_ms, how many entries came too late: their messages were restored meanwhile, position of an entry
--                       (from 1) whose part completed a chord, ...]
-- Atomic                a late-acknowledged message is gone exactly when its result is stored and what follows is sent; success
--                       is final
-- Cost                  O(entries + actions), up to seven commands an entry, ten more where a run ends
--- @include "redis-now"
--- @include "is-success"
--- @include "shard-keys"
--- @include "times"
--- @include "next-run"
--- @include "record-change"
--- @include "complete-run"
--- @include "parked"
--- @include "actions"
--- @include "chord-part"
local state, reserved, started, unacked, index, dead_letters = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local crashes, meta, chords = KEYS[7], KEYS[8], KEYS[9]
local counter, expires, dead_limit, shards = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local first_result, first_entry, ENTRY, ACTION, CRASHES_SEC = 10, 5, 6, 5, 604800

local now_ms = redis_now()
local reply = { now_ms, 0 }
local recorded = redis.call('HMGET', state, 'settled', 'chords')
local served = tonumber(recorded[1] or -1)
if counter <= served then
  for position in string.gmatch(counter == served and recorded[2] or '', '%d+') do reply[#reply + 1] = tonumber(position) end
  return reply
end
redis.call('HLEN', unacked)
redis.call('ZCARD', index)
redis.call('SCARD', reserved)
redis.call('SCARD', started)
redis.call('XLEN', dead_letters)
redis.call('HLEN', crashes)
redis.call('HLEN', chords)

local final = {}
if #KEYS >= first_result then
  local keys = {}
  for position = first_result, #KEYS do keys[#keys + 1] = KEYS[position] end
  for position, record in ipairs(redis.call('MGET', unpack(keys))) do final[keys[position]] = is_success(record) end
end

-- Which of the messages that are to be acknowledged now are still held, and what those are that are kept as dead letters.
local tags, dead, is_held, held = {}, {}, {}, {}
local at = first_entry
while at <= #ARGV do
  local tag, mode = ARGV[at], ARGV[at + 1]
  if mode ~= 'acked' then tags[#tags + 1] = tag end
  if mode == 'dead' then dead[tag] = redis.call('HGET', unacked, tag) end
  at = at + ENTRY + ACTION * tonumber(ARGV[at + 5])
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
if #tags > 0 then
  redis.call('SREM', reserved, unpack(tags))
  redis.call('SREM', started, unpack(tags))
end
if #held > 0 then
  redis.call('HDEL', unacked, unpack(held))
  redis.call('ZREM', index, unpack(held))
end

local has_shards = shards ~= '0' and redis.call('HGET', meta, 'shards') == shards
local crashed = {} -- tags of messages that are put back with their crashes counted
local actions = open_actions({
  expires = expires,
  dead_letters = dead_letters,
  dead_limit = dead_limit,
  now_ms = now_ms,
  has_shards = has_shards,
})

-- What belongs to an entry itself, by kind. Each gets the entry's tag, its position, and four texts.
local own_actions = {
  -- group id, names, part, what follows the chord (lua/include/chord-part.lua)
  chord = function(_, number, group_id, names, part, follow)
    if count_part(chords, state, expires, group_id, names, part, follow) then reply[#reply + 1] = number end
  end,

  -- most crashes, list, envelope, ''. What else the entry says happens only when it was the last of them.
  crashed = function(tag, _, most, list, envelope)
    local times = redis.call('HINCRBY', crashes, tag, 1)
    redis.call('EXPIRE', crashes, CRASHES_SEC)
    if times < tonumber(most) then
      crashed[tag] = true
      return actions.push_message('RPUSH', list, envelope)
    end
    actions.keep_dead(list, 'its process died in each of ' .. times .. ' runs', envelope)
  end,
}

local runs = {} -- prefix of a shard's keys -> the runs of it that may end
local next_result, number = first_result, 0
at = first_entry
while at <= #ARGV do
  local tag, mode, record, letter, run = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local first_action, count = at + ENTRY, tonumber(ARGV[at + 5])
  at = first_action + ACTION * count
  number = number + 1
  local key
  if record ~= '' then
    key = KEYS[next_result]
    next_result = next_result + 1
  end
  local acts = mode == 'acked' or is_held[tag]
  is_held[tag] = nil
  if acts and mode == 'dead' then
    local queue, reason = string.match(letter, '^([^\n]*)\n(.*)$')
    actions.keep_dead(queue, reason, string.match(dead[tag], '^%[(.*), "[^"]*", "[^"]*"%]$') or dead[tag])
  end
  if not acts then
    reply[2] = reply[2] + 1
  elseif key and not final[key] then
    actions.store(key, record)
    final[key] = is_success(record)
  end
  if acts then
    for action = first_action, at - 1, ACTION do
      local kind, first, second, third, fourth = unpack(ARGV, action, action + ACTION - 1)
      local own = own_actions[kind]
      if own then
        own(tag, number, first, second, third, fourth)
      else
        actions.by_kind[kind](first, second, third, fourth)
      end
      if crashed[tag] then break end
    end
  end
  if acts and run ~= '' and not crashed[tag] then
    local prefix, outcome, wish, id = string.match(run, '^([^\31]*)\31([^\31]*)\31([^\31]*)\31(.*)$')
    runs[prefix] = runs[prefix] or {}
    table.insert(runs[prefix], { id = id, tag = tag, outcome = outcome, wish = wish ~= '' and wish or nil })
  end
end

-- What ended is no longer counted.
if #held > 0 and redis.call('HLEN', crashes) > 0 then
  for _, tag in ipairs(held) do
    if not crashed[tag] then redis.call('HDEL', crashes, tag) end
  end
end

-- A run is sent again by its own task: the same run, as another message.
local function send_again(key, id, flight, message)
  local tag, eta_ms, list = string.match(message, '^([^\30]*)\30(%d+)\30(.*)$')
  redis.call('HSET', key.journal, id, table.concat({ flight.task_id, flight.due, flight.run, flight.attempt, tag, list,
    flight.buffered, string.format('%.0f', flight.dispatched) }, '\31'))
  if redis.call('ZSCORE', key.deadlines, id) then
    redis.call('ZINCRBY', key.deadlines, math.max(0, tonumber(eta_ms) - now_ms), id)
  end
end

-- Ends the runs of a shard whose present attempts these messages are. Nothing is brought back into a namespace that is gone.
local function end_runs(prefix, ended)
  local namespace, shard = string.match(prefix, '^(.*):{(%d+)}:$')
  local epoch, is_recorded = unpack(redis.call('HMGET', namespace .. ':meta', 'epoch', 'journal'))
  if not epoch then return end
  local key, ids, earliest = shard_keys(prefix .. 'due'), {}, math.huge
  for i, run in ipairs(ended) do ids[i] = run.id end
  local endings = open_endings(key, ids)
  for _, run in ipairs(ended) do
    local flight = endings.flights[run.id]
    if flight and flight.tag == run.tag and run.outcome == 'retry' then
      send_again(key, run.id, flight, run.wish)
    elseif flight and flight.tag == run.tag then
      earliest = math.min(earliest, complete_run(endings, run.id, now_ms, run.outcome, run.wish) or earliest)
    end
  end
  write_endings(endings)
  if is_recorded == '1' then
    local changes = {}
    for _, id in ipairs(endings.ended) do changes[#changes + 1], changes[#changes + 2] = 'state', state_of(key, id) end
    record_changes(key, epoch, changes)
  end
  if earliest < now_ms + 1000 then
    redis.call('PUBLISH', namespace .. ':wake', shard .. ':' .. string.format('%.0f', earliest))
  end
end
for prefix, ended in pairs(runs) do end_runs(prefix, ended) end
redis.call('HSET', state, 'settled', counter, 'chords', table.concat(reply, ' ', 3))
return reply
