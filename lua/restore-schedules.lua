-- restore-schedules: put schedules back into one shard of a namespace that Redis has lost, from the journal of a node.
-- KEYS[1] meta            hash    namespace record, which comes back last
-- KEYS[2] restoring       string  `<until ms>:<node id>` of who fills the absent namespace
-- KEYS[3] due_key         zset    due times of the shard; its other keys are named by the same prefix (lua/keys.ts)
-- ARGV[1] node            text    who restores
-- ARGV[2] lease           int     until when others keep out, ms from now
-- ARGV[3] floor           int     until this Redis time, ms, nothing due was left undispatched
-- ARGV[4] begin           text    '' or, in the first call for a shard: `<sequence of its last change>:<highest template number>`.
--                                 Schedules that are there go; parked messages, totals and runs in flight stay
-- ARGV[5..] kind, text    text    in order, as in the change stream (lua/include/record-change.lua); and in the end `tidy` with
--                                 the number of a shared text, which goes when no schedule uses it. At most 500 pairs
-- Returns                 [id, ...] of schedules that are left out, because what they share with others is not known
-- Errors                  RESTORE_TAKEN when another took over meanwhile, or the namespace is there
-- Atomic                  the same calls again in the same order give the same
-- Cost                    O(pairs), about 8 us each
--- @include "redis-now"
--- @include "shard-keys"
--- @include "times"
--- @include "next-run"
--- @include "shared-texts"
local meta, restoring, due_key = KEYS[1], KEYS[2], KEYS[3]
local node, lease, floor, begin = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
-- What a node gave out after the last change that this journal has must not be given out again.
local NUMBERS_APART = 10000
local SCHEDULE_KEYS = {
  'due', 'definitions', 'templates', 'template_ids', 'template_uses', 'times', 'refills', 'claims', 'last', 'runs',
  'completed', 'held', 'failures', 'missed', 'missed_ranges', 'dropped', 'changes',
}

local holder = string.match(redis.call('GET', restoring) or '', '^%d+:(.*)$')
if holder ~= node or redis.call('EXISTS', meta) == 1 then return redis.error_reply('RESTORE_TAKEN') end

local key = shard_keys(due_key)
local now = redis_now()
redis.call('SET', restoring, string.format('%.0f:%s', now + lease, node))
if begin ~= '' then
  local sequence, number = string.match(begin, '^(%d+):(%d+)$')
  for _, name in ipairs(SCHEDULE_KEYS) do redis.call('UNLINK', key[name]) end
  redis.call('HSET', key.counts, 'changes', sequence, 'templates', string.format('%.0f', tonumber(number) + NUMBERS_APART),
    -- Extra runs are numbered by no more than one a ms, so that this is beyond all numbers given out before.
    'runs', string.format('%.0f', now))
end

-- What the calls before this one stored of the schedules that it is about.
local ids, is_known = {}, {}
for i = 5, #ARGV, 2 do
  local kind, text = ARGV[i], ARGV[i + 1]
  local id = (kind == 'put' or kind == 'state') and string.match(text, '^[^\30]*') or kind == 'delete' and text
  if id and not is_known[id] then
    is_known[id] = true
    ids[#ids + 1] = id
  end
end
local before = {}
if #ids > 0 then
  local stored = redis.call('HMGET', key.definitions, unpack(ids))
  for i, id in ipairs(ids) do before[id] = stored[i] end
end

-- How each schedule stands in the end, false when it is gone; what it was before that is of no matter.
local after, untidy = {}, {}
for i = 5, #ARGV, 2 do
  local kind, text = ARGV[i], ARGV[i + 1]
  if kind == 'template' then
    local number, shared = string.match(text, '^(%d+)\31(.*)$')
    if number then
      redis.call('HSET', key.templates, number, shared)
      redis.call('HSET', key.template_ids, redis.sha1hex(shared), number)
      if string.find(shared, '^calendar\31') or string.find(shared, '^exclusion\31') then redis.call('ZADD', key.refills, now, number) end
    end
  elseif kind == 'put' then
    local id, definition, due, completed, runs, held = string.match(text, '^([^\30]*)\30([^\30]*)\30([^\30]*)\30([^\30]*)\30([^\30]*)\30([^\30]*)$')
    if id then after[id] = { definition = definition, due = due, completed = completed, runs = runs, held = held } end
  elseif kind == 'state' then
    local id, due, completed, runs, held = string.match(text, '^([^\30]*)\30([^\30]*)\30([^\30]*)\30([^\30]*)\30([^\30]*)$')
    local definition = id and after[id] ~= false and (after[id] and after[id].definition or before[id])
    if definition then after[id] = { definition = definition, due = due, completed = completed, runs = runs, held = held } end
  elseif kind == 'delete' then
    after[text] = false
  elseif kind == 'tidy' then
    untidy[#untidy + 1] = text
  end
end

local text_exists = {}
local function exists(number)
  if text_exists[number] == nil then text_exists[number] = redis.call('HEXISTS', key.templates, number) == 1 end
  return text_exists[number]
end

-- The parts of a definition whose shared texts are all there; nil for any other.
local function parse(definition)
  local number, text, finish = string.match(definition, '^([^\31]*)\31[^\31]*\31([^\31]*)\31([^\31]*)\31')
  local timing = text and timing_of(text)
  if not timing or not exists(number) then return nil end
  if timing.kind == 'c' and not exists(string.match(text, '^.(%d*)')) then return nil end
  if timing.exclusion and not exists(timing.exclusion) then return nil end
  return timing, tonumber(finish), number, text
end

-- The score in `due` of an enabled schedule that has not completed; nil when it has no more runs, false when its calendar is to
-- be computed first.
local function score_of(id, state, timing, finish)
  if timing.max_runs and (tonumber(state.runs) or 0) >= timing.max_runs then return nil end
  local due = state.due ~= '' and math.floor(tonumber(state.due)) or nil
  if timing.kind == 'o' then
    -- Later than its own time: held by a queue cap.
    if due and due > timing.first then return now end
    return next_due(key, id, timing, finish, -1)
  end
  if timing.kind == 'a' then
    if redis.call('HEXISTS', key.journal, id) == 1 or state.held == '-' then return nil end
    -- A fraction says that `held` tells when it is due.
    if state.held ~= '' then return now + 1 / 2048 end
    if due and due > floor then return due end
    -- Its run was in flight, and is lost.
    return not (finish and now >= finish) and now or nil
  end
  if due and due > floor then return due end
  return next_due(key, id, timing, finish, floor)
end

local definitions, new_due, completed, claims, runs, held = {}, {}, {}, {}, {}, {}
local gone, left_out, ups, downs = {}, {}, {}, {}
local function append(list, one, other)
  local n = #list
  list[n + 1], list[n + 2] = one, other
end

for _, id in ipairs(ids) do
  local state = after[id]
  if before[id] then
    local number, text = string.match(before[id], '^([^\31]*)\31[^\31]*\31([^\31]*)')
    add_uses(downs, number, text, -1)
  end
  local timing, finish, number, text
  if state then timing, finish, number, text = parse(state.definition) end
  if timing then
    append(definitions, id, state.definition)
    add_uses(ups, number, text, 1)
    if state.runs ~= '' then append(runs, id, state.runs) end
    if state.held ~= '' then append(held, id, state.held) end
    local score = state.completed == '' and not timing.is_paused and score_of(id, state, timing, finish)
    if state.completed ~= '' then
      append(completed, state.completed, id)
    elseif score then
      append(new_due, string.format('%.17g', score), id)
    elseif score == false and not timing.is_paused then
      append(claims, timing.kind == 'o' and -1 or floor, id)
    elseif timing.kind == 'o' and not timing.is_paused then
      append(completed, now, id)
    end
  elseif state then
    left_out[#left_out + 1] = id
  end
  gone[#gone + 1] = id
end

-- The state before goes as a whole, then the one after is written: the same calls again give the same.
local function write(command, name, list)
  if #list > 0 then redis.call(command, name, unpack(list)) end
end
write('HSET', key.definitions, definitions)
for number, by in pairs(ups) do count_uses(key, number, by) end
for number, by in pairs(downs) do count_uses(key, number, by) end
for _, name in ipairs({ 'due', 'completed', 'claims' }) do write('ZREM', key[name], gone) end
for _, name in ipairs({ 'runs', 'held' }) do write('HDEL', key[name], gone) end
local not_stored = {}
for _, id in ipairs(ids) do
  if not after[id] then not_stored[#not_stored + 1] = id end
end
write('HDEL', key.definitions, not_stored)
write('HDEL', key.definitions, left_out)
write('ZADD', key.due, new_due)
write('ZADD', key.completed, completed)
write('ZADD', key.claims, claims)
write('HSET', key.runs, runs)
write('HSET', key.held, held)
-- One text may have had several numbers, one after the other.
for _, number in ipairs(untidy) do
  local shared = redis.call('HGET', key.templates, number)
  if shared and redis.call('HEXISTS', key.template_uses, number) == 1 then
    redis.call('HSET', key.template_ids, redis.sha1hex(shared), number)
  elseif shared then
    local sha = redis.sha1hex(shared)
    if redis.call('HGET', key.template_ids, sha) == number then redis.call('HDEL', key.template_ids, sha) end
    redis.call('HDEL', key.templates, number)
    redis.call('ZREM', key.refills, number)
  end
end
return left_out
