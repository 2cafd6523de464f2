-- put-schedules: create or update schedules of one shard.
-- KEYS[1] meta            hash    namespace record
-- KEYS[2] due_key         zset    of the shard; its other keys are named by the same prefix (lua/keys.ts)
-- KEYS[3] request         string  only to create: id that the request created, kept 10 minutes
-- ARGV[1] epoch           text    of the namespace, as the caller knows it
-- ARGV[2] namespace       text
-- ARGV[3] mode            text    upsert, create (refuses what exists), or the SHA1 of the definition to replace (refuses any other)
-- ARGV[4] wake_channel    text    told when the shard's head moved to within a second from now
-- ARGV[5] shard           int
-- ARGV[6] text_count      int     followed by three for each shared text: the text (lua/definition.ts); its times computed
--                                 ahead (lua/times.ts); when to compute them further, ms; both '' for a template
-- then six per schedule   text    id; which text is its template (from 1); timing with @n for the number of the n-th text;
--                                 end ms or ''; rest of the definition; '' or what it carries over from elsewhere when it is
--                                 new, by \30: seed, instant or offset of its timing, due, completed, runs, held
-- Returns                 a letter per schedule: c created, u updated, n unchanged, x refused by the mode
-- Errors                  NAMESPACE_GONE
-- Atomic                  each schedule is stored whole with its due time, uses of shared texts and wake-up
-- Cost                    O(schedules), about 4 us each; at most 500 a call
--- @include "redis-now"
--- @include "shard-keys"
--- @include "times"
--- @include "next-run"
--- @include "shared-texts"
--- @include "record-change"
local meta, due_key, request = KEYS[1], KEYS[2], KEYS[3]
local epoch, namespace, mode, wake_channel, shard = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local text_count = tonumber(ARGV[6])
local first_text, first_entry = 7, 7 + 3 * text_count

local record = redis.call('HMGET', meta, 'epoch', 'journal')
if record[1] ~= epoch then return redis.error_reply('NAMESPACE_GONE') end

local key = shard_keys(due_key)
local now, generation = redis_now()
local ids = {}
for i = first_entry, #ARGV, 6 do ids[#ids + 1] = ARGV[i] end
if #ids == 0 then return '' end

local stored = redis.call('HMGET', key.definitions, unpack(ids))
local scores = redis.call('ZMSCORE', key.due, unpack(ids))
local head = redis.call('ZRANGE', key.due, 0, 0, 'WITHSCORES')
local head_due = head[2] and tonumber(head[2]) or math.huge

-- Number of the request's n-th text; a new one gets the next number that was never given out.
local numbers, new_texts, numbered = {}, {}, 0
local function number_of(n)
  if numbers[n] == nil then
    local at = first_text + 3 * (n - 1)
    local text = ARGV[at]
    local sha = redis.sha1hex(text)
    local number = redis.call('HGET', key.template_ids, sha)
    if not number then
      numbered = numbered + 1
      number = tostring((tonumber(redis.call('HGET', key.counts, 'templates')) or 0) + numbered)
    end
    if not number or redis.call('HEXISTS', key.templates, number) == 0 then
      new_texts[#new_texts + 1] = { number = number, sha = sha, text = text, times = ARGV[at + 1], refill_at = ARGV[at + 2] }
      -- So that what follows finds them as if they were stored.
      known_times[key.times .. number] = ARGV[at + 1]
    end
    numbers[n] = number
  end
  return numbers[n]
end

-- A timing as it will be stored: shared texts become numbers; `in` and `now` instants, counted from this moment.
local function resolved(timing, anchor)
  timing = string.gsub(timing, '^([oO]):(%d+):', function(kind, delay)
    return string.format('%s%.0f:%s:', kind, anchor or now + tonumber(delay), delay)
  end)
  return (string.gsub(timing, '^([eE])(%d+):n:', function(kind, interval)
    return string.format('%s%s:n%.0f:', kind, interval, anchor or now % tonumber(interval))
  end))
end

-- The first three groups of the task ids that a generation beginning now gives (lua/definition.ts).
local function new_seed(id)
  local hash = redis.sha1hex(namespace .. '\31' .. id .. '\31' .. generation)
  return string.sub(hash, 1, 8) .. '-' .. string.sub(hash, 9, 12) .. '-8' .. string.sub(hash, 13, 15) .. '-'
end

-- A timing without its flag's case and what may change without a new grid: max_runs and exclusion.
local function grid_of(timing)
  local grid = string.lower(string.sub(timing, 1, 1)) .. string.sub(timing, 2)
  return (string.gsub(string.gsub(grid, ';r%d+', ''), ';x%d+', ''))
end

local function options_of(timing)
  return (string.match(timing, ';r%d+') or '') .. '/' .. (string.match(timing, ';x%d+') or '')
end

-- Whether a stored timing has the grid that this spec asks for, instants that were resolved at registration aside.
local function same_grid(wanted, held)
  wanted, held = grid_of(wanted), grid_of(held)
  if string.find(wanted, '^o:') then held = string.gsub(held, '^o%d+:', 'o:') end
  if string.find(wanted, '^e%d+:n:') then held = string.gsub(held, '^(e%d+):n%d+:', '%1:n:') end
  return wanted == held
end

-- A stored grid with the options and flag of the spec.
local function with_options(held, wanted, flag)
  local core, jitter = string.match(held, '^.([^;]*)'), string.match(held, ';j%d+') or ''
  return flag .. core .. (string.match(wanted, ';r%d+') or '') .. jitter .. (string.match(wanted, ';x%d+') or '')
end

local outcomes, changed = {}, {}
local new_definitions, new_due, not_due, done, not_done, told, uses = {}, {}, {}, {}, {}, {}, {}
local claims, forgotten, unmissed, new_runs, uncounted, new_held, unheld = {}, {}, {}, {}, {}, {}, {}
local earliest = math.huge

local function append(list, one, other)
  local n = #list
  list[n + 1], list[n + 2] = one, other
end

local function schedule_at(id, due)
  append(new_due, string.format('%.17g', due), id)
  append(not_done, id)
  earliest = math.min(earliest, due)
end

-- Puts an enabled schedule where it waits: `due` and `after` as first_due tells.
local function place(id, timing, was_due, due, after)
  if due then return schedule_at(id, due) end
  if was_due then not_due[#not_due + 1] = id end
  if due == false then
    append(claims, string.format('%.0f', after), id)
  elseif timing.kind == 'o' then
    append(done, string.format('%.0f', now), id)
  end
end

local function tell(id, last_due, lateness)
  if last_due then append(told, id, string.format('%.0f:%.0f', last_due, lateness)) end
end

local function create(i, id, number, timing_text, finish_text, rest, carried)
  local seed, anchor, due, completed, runs, held = string.match(carried, '^(.-)\30(.-)\30(.-)\30(.-)\30(.-)\30(.*)$')
  timing_text = resolved(timing_text, tonumber(anchor))
  append(new_definitions, id, table.concat({ number, seed or new_seed(id), timing_text, finish_text, rest }, '\31'))
  add_uses(uses, number, timing_text, 1)
  outcomes[i] = 'c'
  local timing, finish = timing_of(timing_text), tonumber(finish_text)
  if runs and runs ~= '' then append(new_runs, id, runs) end
  if held == '-' or timing.is_paused and held and held ~= '' then append(new_held, id, held) end
  if completed and completed ~= '' then
    append(done, completed, id)
  elseif due and due ~= '' then
    -- 0: a loop whose run was in flight begins its next one.
    schedule_at(id, due == '0' and now or tonumber(due))
  elseif not timing.is_paused and not (seed and (timing.kind ~= 'c' or timing.max_runs and (tonumber(runs) or 0) >= timing.max_runs)) then
    -- The moment of registration itself is a grid point of phase `now`; an instant in the past is a missed run.
    local floor = timing.kind == 'o' and -1 or now - 1
    place(id, timing, false, first_due(key, id, timing, finish, floor, now))
  end
end

-- Whether the next run of a schedule that is not in `due` is somewhere else. Only of a loop is that the run in flight, and
-- only of it and a one-shot a missed run: others have theirs beside.
local function is_waiting(id, kind)
  return redis.call('ZSCORE', key.claims, id) or (kind == 'a' or kind == 'o') and redis.call('ZSCORE', key.missed, id)
    or kind == 'a' and redis.call('HEXISTS', key.journal, id) == 1
end

local function is_exhausted(id, timing)
  return timing.max_runs and tonumber(redis.call('HGET', key.runs, id) or 0) >= timing.max_runs
end

local function update(i, id, old, number, wanted, finish_text, rest)
  local score = tonumber(scores[i] or nil)
  local old_number, seed, old_text, old_finish, old_rest =
    string.match(old, '^([^\31]*)\31([^\31]*)\31([^\31]*)\31([^\31]*)\31(.*)$')
  local flag, finish = string.sub(wanted, 1, 1), tonumber(finish_text)
  local enabled, was_enabled = flag == string.lower(flag), not timing_of(old_text).is_paused
  local keeps_grid = same_grid(wanted, old_text)
  local text = keeps_grid and with_options(old_text, wanted, flag) or resolved(wanted)
  local timing = timing_of(text)
  local keeps_options = options_of(text) == options_of(old_text) and finish_text == old_finish
  local held = timing.kind == 'a' and keeps_grid and redis.call('HGET', key.held, id) or nil
  -- A schedule that waits nowhere went to the dead letters: putting it again repairs it.
  local is_astray = enabled and was_enabled and not score and timing.kind ~= 'o' and not is_waiting(id, timing.kind)
    and not is_exhausted(id, timing) and first_due(key, id, timing, finish, now, now, held) ~= nil
  if text == old_text and number == old_number and finish_text == old_finish and rest == old_rest and not is_astray then
    outcomes[i] = 'n'
    return
  end
  outcomes[i] = 'u'
  if not keeps_grid then seed = new_seed(id) end
  append(new_definitions, id, table.concat({ number, seed, text, finish_text, rest }, '\31'))
  add_uses(uses, number, text, 1)
  add_uses(uses, old_number, old_text, -1)
  local last_due, lateness = last_run(key, id, timing_of(old_text), score or 0)
  local is_flying = timing.kind == 'a' and redis.call('HEXISTS', key.journal, id) == 1
  if not timing.max_runs then append(uncounted, id) end
  if not enabled or not keeps_grid then
    append(forgotten, id)
    append(unmissed, id)
  end
  if not keeps_grid then
    append(unheld, id)
    append(not_done, id)
    if timing.kind == 'o' then append(uncounted, id) end
  end
  if not enabled then
    -- A loop keeps when it is due (where a queue cap holds it that is kept already), what was missed is not.
    if score and timing.kind == 'a' and keeps_grid and score == math.floor(score) then
      append(new_held, id, string.format('%.0f', score))
    end
    if score then not_due[#not_due + 1] = id end
    tell(id, last_due, lateness)
    return
  end
  -- Only the score of a plain interval schedule tells its last run.
  if timing_of(old_text).plain and not timing.plain then tell(id, last_due, lateness) end
  if keeps_grid and was_enabled and keeps_options and not is_astray then return end
  if is_flying then
    -- Its run in flight brings it back.
    if score then not_due[#not_due + 1] = id end
  elseif is_exhausted(id, timing) and (keeps_grid or timing.kind ~= 'o') then
    if score then not_due[#not_due + 1] = id end
    append(forgotten, id)
    append(unmissed, id)
    if timing.kind == 'o' then append(done, string.format('%.0f', now), id) end
  elseif keeps_grid and score then
    -- Still on its grid; a new end or exclusion may take its next run away. One that a queue cap holds is due at its own time.
    local due = timing.kind == 'o' and timing.first or tonumber(held) or math.floor(score)
    local due_next, after = due, nil
    if finish and due >= finish then
      due_next = nil
    elseif string.match(text, ';x%d+') ~= string.match(old_text, ';x%d+') then
      local from = (due <= now or timing.kind == 'a') and due - 1 or math.max(now, last_due or 0)
      due_next, after = next_due(key, id, timing, finish, from)
    end
    if due_next ~= due then
      tell(id, last_due, lateness)
      place(id, timing, true, due_next, after)
      append(unheld, id)
    end
  elseif not (keeps_grid and was_enabled and is_waiting(id, timing.kind)) then
    -- A new timing of phase `now` begins with this moment, any other goes on after it.
    local floor = math.max((not keeps_grid and string.find(text, '^e%d+:n')) and now - 1 or now, last_due or 0)
    tell(id, last_due, lateness)
    place(id, timing, score ~= nil, first_due(key, id, timing, finish, floor, now, held))
    if held ~= '-' then append(unheld, id) end
  end
end

for i, id in ipairs(ids) do
  local at = first_entry + 6 * (i - 1)
  local old = stored[i]
  local is_readable = old and string.match(old, '^[^\31]*\31[^\31]*\31([^\31]*)\31[^\31]*\31.*$')
  is_readable = is_readable and timing_of(is_readable) ~= nil
  if mode == 'create' and redis.call('GET', request) == id then
    -- Also when the schedule was deleted since: a request that is sent again does nothing again.
    outcomes[i] = 'c'
  elseif (mode == 'create' and old) or (mode ~= 'upsert' and mode ~= 'create' and (not old or redis.sha1hex(old) ~= mode)) then
    outcomes[i] = 'x'
  else
    local number = number_of(tonumber(ARGV[at + 1]))
    local timing = string.gsub(ARGV[at + 2], '@(%d+)', function(n) return number_of(tonumber(n)) end)
    if is_readable then
      update(i, id, old, number, timing, ARGV[at + 3], ARGV[at + 4])
    else
      -- New, or unreadable, which putting it again repairs.
      create(i, id, number, timing, ARGV[at + 3], ARGV[at + 4], ARGV[at + 5])
    end
    if outcomes[i] ~= 'n' then changed[#changed + 1] = id end
  end
end

if #changed == 0 then return table.concat(outcomes) end

-- HSET first: Redis refuses it when memory is full, before anything was written.
local function write(command, name, list)
  if #list > 0 then redis.call(command, name, unpack(list)) end
end
write('HSET', key.definitions, new_definitions)
write('ZREM', key.claims, forgotten)
write('ZREM', key.missed, unmissed)
write('HDEL', key.missed_ranges, unmissed)
write('ZADD', key.due, new_due)
write('ZADD', key.claims, claims)
write('ZREM', key.due, not_due)
write('ZREM', key.completed, not_done)
if #done > 0 then redis.call('ZADD', key.completed, 'NX', unpack(done)) end
write('HSET', key.last, told)
write('HDEL', key.runs, uncounted)
write('HSET', key.runs, new_runs)
write('HDEL', key.held, unheld)
write('HSET', key.held, new_held)
local changes = {}
for _, text in ipairs(new_texts) do
  redis.call('HSET', key.templates, text.number, text.text)
  redis.call('HSET', key.template_ids, text.sha, text.number)
  if text.times ~= '' then
    redis.call('HSET', key.times, text.number, text.times)
    redis.call('ZADD', key.refills, text.refill_at, text.number)
  end
  append(changes, 'template', text.number .. '\31' .. text.text)
end
if numbered > 0 then redis.call('HINCRBY', key.counts, 'templates', numbered) end
-- Ups first: what is used anew must not be dropped in between.
for number, by in pairs(uses) do if by > 0 then count_uses(key, number, by) end end
for number, by in pairs(uses) do if by < 0 then count_uses(key, number, by) end end
if mode == 'create' and outcomes[1] == 'c' then redis.call('SET', request, ids[1], 'PX', 600000) end
if record[2] == '1' then
  local definitions = redis.call('HMGET', key.definitions, unpack(changed))
  for i, id in ipairs(changed) do
    local state = state_of(key, id)
    append(changes, 'put', id .. '\30' .. definitions[i] .. string.sub(state, #id + 1))
  end
  record_changes(key, epoch, changes)
end
if earliest < head_due and earliest < now + 1000 then
  redis.call('PUBLISH', wake_channel, shard .. ':' .. string.format('%.0f', earliest))
end
return table.concat(outcomes)
