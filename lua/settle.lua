-- settle: finish messages: store results, take late-acknowledged ones off unacked, send what follows, keep undecodable ones.
-- KEYS[1] settled       string  the worker's: counter last served, and the positions that were answered; kept for a day
-- KEYS[2] reserved      set     delivery tags that the worker holds
-- KEYS[3] waiting       set     those of them whose tasks have not started
-- KEYS[4] unacked       hash    delivery tag -> [envelope, exchange, routing key]
-- KEYS[5] index         zset    delivery tag -> delivered at, s since epoch
-- KEYS[6] dead_letters  stream  messages that were given up
-- KEYS[7] crashes       hash    delivery tag -> how many workers died of that message
-- KEYS[8] meta          hash    the namespace's record
-- KEYS[9] chords        hash    group id -> what follows the chord, of those whose body is yet to be sent
-- KEYS[10...] results   string  result records: of those that were acknowledged before, of those that are now, then of the
--                               entries that have one; also the channel's name
-- ARGV[1] counter       int     larger than that of the worker's last answered call; the same again changes nothing
-- ARGV[2] expires       int     s that a result is kept; 0: for ever
-- ARGV[3] dead_limit    int     entries that the dead letters keep, about
-- ARGV[4] shards        int     how many shards the caller believes the namespace has; 0: nothing can be parked
-- ARGV[5] token         text    with which the worker claims the chords whose last parts these are
-- ARGV[6] bare          int     messages that were acknowledged before, and have a record to store and nothing else
-- ARGV[7] late          int     messages that are acknowledged now, and have that and nothing else
-- ARGV[8] plain         int     messages that are acknowledged now, and nothing else
-- ARGV[9...] entries    text    tags of the late and the plain ones; records of the bare and the late ones; then the others, each:
--                               `<actions> <mode>[,<part>...] <tag>`, its parts, its actions.
--                               Mode: `acked` (was taken off unacked before), `held` (acts only if it still is in unacked).
--                               Parts: `record`; `letter` (`<queue>\n<reason>`: it is kept as a dead letter); `run`, the one that
--                               ends (lua/include/end-runs.lua). An action: its kind (see `own_actions` and
--                               lua/include/actions.lua) and four texts
-- Returns               [now_ms, how many messages came too late: they had been restored meanwhile, position among the
--                       entries (from 1) of one whose part completed a chord, ...]
-- Atomic                a late-acknowledged message is gone exactly when its result is stored and what follows is sent; success
--                       is final
-- Cost                  O(messages + actions): two commands a record, one more acknowledged now, up to seven for others, ten
--                       more where a run ends
--- @include "redis-now"
--- @include "is-success"
--- @include "shard-keys"
--- @include "times"
--- @include "next-run"
--- @include "record-change"
--- @include "complete-run"
--- @include "end-runs"
--- @include "parked"
--- @include "actions"
--- @include "chord-part"
local settled, reserved, waiting, unacked, index, dead_letters = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local crashes, meta, chords = KEYS[7], KEYS[8], KEYS[9]
local counter, expires, dead_limit, shards = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local token, bare, late, plain = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local first_result, first_tag, ACTION, CRASHES_SEC, SETTLED_SEC = 10, 9, 5, 604800, 86400
local first_record = first_tag + late + plain

local now_ms = redis_now()
local reply = { now_ms, 0 }
local served, answered = string.match(redis.call('GET', settled) or '-1', '^(%-?%d+)(.*)$')
if counter <= tonumber(served) then
  for position in string.gmatch(counter == tonumber(served) and answered or '', '%d+') do reply[#reply + 1] = tonumber(position) end
  return reply
end
-- Whatever has the wrong type must say so now: after the first write nothing may fail.
redis.call('HLEN', unacked)
redis.call('ZCARD', index)
redis.call('SCARD', reserved)
local any_waiting = redis.call('SCARD', waiting) > 0
redis.call('XLEN', dead_letters)
redis.call('HLEN', crashes)
redis.call('HLEN', chords)

local stored = {} -- result key -> the record that is there
if #KEYS >= first_result then
  for i, record in ipairs(redis.call('MGET', unpack(KEYS, first_result))) do stored[KEYS[first_result + i - 1]] = record end
end

-- What is more than a record or an acknowledgement.
local entries = {}
local at, next_result = first_record + bare + late, first_result + bare + late
while at <= #ARGV do
  local count, mode, parts, tag = string.match(ARGV[at], '^(%d+) (%l+)([%l,]*) (.*)$')
  local entry = { tag = tag, acts = mode == 'acked' }
  for part in string.gmatch(parts, '%l+') do
    at = at + 1
    entry[part] = ARGV[at]
  end
  if entry.record then
    entry.result = KEYS[next_result]
    next_result = next_result + 1
  end
  entry.first_action, at = at + 1, at + 1 + ACTION * tonumber(count)
  entry.last_action = at - 1
  entries[#entries + 1] = entry
end

-- Which of those that are to be acknowledged now are still held, each once.
local tags, entry_of, held, is_held = { unpack(ARGV, first_tag, first_record - 1) }, {}, {}, {}
for _, entry in ipairs(entries) do
  if not entry.acts then
    tags[#tags + 1] = entry.tag
    entry_of[#tags] = entry
  end
end
if #tags > 0 then
  for i, is_reserved in ipairs(redis.call('SMISMEMBER', reserved, unpack(tags))) do
    local tag, entry = tags[i], entry_of[i]
    if is_reserved == 1 and not is_held[tag] and redis.call('HEXISTS', unacked, tag) == 1 then
      is_held[tag] = i
      held[#held + 1] = tag
      if entry then entry.acts = true end
      if entry and entry.letter then entry.message = redis.call('HGET', unacked, tag) end
    else
      reply[2] = reply[2] + 1
    end
  end
end

-- Freeing first keeps a Redis that is out of memory drainable: it refuses a script only at its first write.
redis.call('DEL', settled)
if #tags > 0 then
  redis.call('SREM', reserved, unpack(tags))
  if any_waiting then redis.call('SREM', waiting, unpack(tags)) end
end
if #held > 0 then
  redis.call('HDEL', unacked, unpack(held))
  redis.call('ZREM', index, unpack(held))
end

local actions = open_actions({
  expires = expires,
  dead_letters = dead_letters,
  dead_limit = dead_limit,
  now_ms = now_ms,
  has_shards = shards ~= '0' and redis.call('HGET', meta, 'shards') == shards,
})

local function store(result, record)
  if is_success(stored[result]) then return end
  actions.store(result, record)
  stored[result] = record
end

-- What belongs to an entry itself, by kind. Each gets the entry, its position, and four texts.
local own_actions = {
  -- group id, names, part, what follows the chord (lua/include/chord-part.lua)
  chord = function(_, number, group_id, names, part, follow)
    if count_part(chords, token, expires, group_id, names, part, follow) then reply[#reply + 1] = number end
  end,

  -- most crashes, list, envelope, ''. What else the entry says happens only when it was the last of them.
  crashed = function(entry, _, most, list, envelope)
    local times = redis.call('HINCRBY', crashes, entry.tag, 1)
    redis.call('EXPIRE', crashes, CRASHES_SEC)
    if times < tonumber(most) then
      entry.is_put_back = true
      return actions.push_message('RPUSH', list, envelope)
    end
    actions.keep_dead(list, 'its process died in each of ' .. times .. ' runs', envelope)
  end,
}

local function carry_out(entry, number)
  if entry.message then
    local queue, reason = string.match(entry.letter, '^([^\n]*)\n(.*)$')
    actions.keep_dead(queue, reason, string.match(entry.message, '^%[(.*), "[^"]*", "[^"]*"%]$') or entry.message)
  end
  if entry.record then store(entry.result, entry.record) end
  for action = entry.first_action, entry.last_action, ACTION do
    local kind, first, second, third, fourth = unpack(ARGV, action, action + ACTION - 1)
    local own = own_actions[kind]
    if own then
      own(entry, number, first, second, third, fourth)
    else
      actions.by_kind[kind](first, second, third, fourth)
    end
    if entry.is_put_back then return end
  end
end

for i = 0, bare + late - 1 do
  local position = i - bare + 1
  if position < 1 or is_held[tags[position]] == position then store(KEYS[first_result + i], ARGV[first_record + i]) end
end
local ended = {}
for number, entry in ipairs(entries) do
  if entry.acts then
    carry_out(entry, number)
    if entry.run and not entry.is_put_back then ended[#ended + 1] = entry end
  end
end

-- What ended is no longer counted.
if #held > 0 and redis.call('HLEN', crashes) > 0 then
  for i, tag in ipairs(tags) do
    local entry = entry_of[i]
    if is_held[tag] == i and not (entry and entry.is_put_back) then redis.call('HDEL', crashes, tag) end
  end
end

end_runs(ended, now_ms)
redis.call('SETEX', settled, SETTLED_SEC, counter .. ' ' .. table.concat(reply, ' ', 3))
return reply
