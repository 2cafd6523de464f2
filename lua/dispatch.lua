-- dispatch: move what is due from the shards' schedules into Celery queues, oldest first.
-- KEYS[1] meta            hash    namespace record
-- KEYS[2] recovery        hash    tokens, at: bucket from which missed runs are sent; a field for each shard that has some
-- KEYS[3..] due           zset    of each shard; its other keys are named by the same prefix (lua/keys.ts)
-- Queue lists are not passed: their names come from templates and parked messages.
-- ARGV[1] epoch           text    of the namespace, as the caller knows it
-- ARGV[2] limit           int     1..1000 entries in this call, over all shards
-- ARGV[3] grace           int     ms; 0 for the owner; a helper leaves a shard alone until its head is this much overdue
-- ARGV[4] misfire_after   int     ms; a schedule whose oldest run is more overdue than this has missed runs
-- ARGV[5] default_cap     int     most messages in a queue whose schedule does not say otherwise
-- ARGV[6] recovery_rate   int     missed runs sent per second by all nodes together; 0: as fast as it goes
-- ARGV[7] missed_first    int     1 when missed runs go before current ones
-- Returns                 [now ms, messages sent, 1 when more is due, next due ms (0: something was due, ask again soon;
--                         -1: nothing waits), runs misfired, runs refused, then pairs: lateness ms, runs dispatched so late]
-- Errors                  NAMESPACE_GONE
-- Atomic                  an occurrence is either still due or in its queue, never both, never neither
-- Cost                    about 7 us a message, at most 1 MiB of messages; 5 commands a shard with something due, 2 to 4 without
--- @include "redis-now"
--- @include "shard-keys"
--- @include "times"
--- @include "next-run"
--- @include "lateness-bucket"
--- @include "iso-time"
--- @include "queues"
--- @include "message-template"
--- @include "record-change"
--- @include "parked"
local MAX_BYTES, HOLD_MS, MAX_DEAD_LETTERS, MAX_OCCURRENCES = 1048576, 1000, 10000, 5000
local LOOK_AGAIN_MS, GRACE_MS, NONE = 60000, 10000, {}
-- Missed occurrences looked at one by one per call, extra runs sent per schedule and call, runs told one by one per shard
-- and call: all of them where a call sends only few, else those that were late or dropped.
local MAX_STEPS, MAX_EXTRAS, MAX_TOLD, FEW, LATE_MS = 500, 32, 16, 4, 100
-- The lists of a plan that are written at the end: command and key, in this order.
local WRITES = {
  { 'new_due', 'ZADD', 'due' }, { 'claims', 'ZADD', 'claims' }, { 'new_missed', 'ZADD', 'missed' }, { 'extra_held', 'ZADD', 'extra' },
  { 'done', 'ZADD', 'completed' }, { 'deadlines', 'ZADD', 'deadlines' }, { 'new_flights', 'HSET', 'journal' },
  { 'new_tasks', 'HSET', 'flights' }, { 'told', 'HSET', 'last' }, { 'new_runs', 'HSET', 'runs' }, { 'held', 'HSET', 'held' },
  { 'new_ranges', 'HSET', 'missed_ranges' }, { 'not_due', 'ZREM', 'due' }, { 'not_held', 'HDEL', 'held' },
  { 'not_claimed', 'ZREM', 'claims' }, { 'not_missed', 'ZREM', 'missed' }, { 'not_missed', 'HDEL', 'missed_ranges' },
  { 'not_extra', 'ZREM', 'extra' }, { 'unparked', 'ZREM', 'extra' }, { 'unparked', 'HDEL', 'parked' },
}
local WRITTEN = { dead = true, dropped = true, occurrences = true, popped = true }
for _, one in ipairs(WRITES) do WRITTEN[one[1]] = true end
local meta, recovery = KEYS[1], KEYS[2]
local epoch, limit, grace = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local misfire_after, default_cap = tonumber(ARGV[4]), tonumber(ARGV[5])
local recovery_rate, missed_first = tonumber(ARGV[6]), ARGV[7] == '1'
local floor, ceil, max, min, format, match, sub =
  math.floor, math.ceil, math.max, math.min, string.format, string.match, string.sub

local record = redis.call('HMGET', meta, 'epoch', 'journal')
if record[1] ~= epoch then return redis.error_reply('NAMESPACE_GONE') end
local is_journaled = record[2] == '1'

local now = redis_now()
local now_text = format('%.0f', now)
local entries_left, bytes_left = limit, MAX_BYTES
local steps_left, sent, misfired, refused = MAX_STEPS, 0, 0, 0
local latenesses = {} -- ms -> runs dispatched so late
local counted = {} -- total -> what this call adds to it

-- The bucket of missed runs, and which shards have any.
local tokens, is_token_spent, shards_missing, no_longer_missing = math.huge, false, {}, {}
local bucket = redis.call('HGETALL', recovery)
for i = 1, #bucket, 2 do shards_missing[bucket[i]] = bucket[i + 1] end
if recovery_rate > 0 then
  local capacity = max(1, recovery_rate / 10)
  local since = now - tonumber(shards_missing.at or now)
  tokens = min(capacity, tonumber(shards_missing.tokens or capacity) + max(since, 0) * recovery_rate / 1000)
end

local function count(name, by)
  counted[name] = (counted[name] or 0) + by
end

local function append(list, one, other)
  local n = #list
  list[n + 1], list[n + 2] = one, other
end

-- The fraction of a score that tells how late the last run was dispatched (lua/score.ts); four digits tell 2048 steps apart.
local fractions = {}
local function fraction_of(lateness)
  local code = lateness < 2046 and max(lateness + 1, 1) or 2047
  fractions[lateness] = sub(format('%.4f', code / 2048), 2)
  return fractions[lateness]
end

local function bury(plan, kind, id, due, reason, data)
  plan.dead[#plan.dead + 1] = { kind, id, format('%.0f', due), reason, data }
  count('dead', 1)
end

-- Notes a run, or `many` of one kind (lua/occurrences.ts), for those who ask what became of them.
local function tell(plan, id, kind, due, run, many, lateness, task_id)
  if #plan.occurrences >= MAX_TOLD then return end
  plan.occurrences[#plan.occurrences + 1] = table.concat({ id, kind, format('%.0f', due), run, many, lateness, task_id }, '\31')
end

local function misfire(plan, id, due, many)
  if many == 0 then return end
  count('misfired', many)
  misfired = misfired + many
  append(plan.dropped, id, many)
  tell(plan, id, 'm', due, 0, many, '', '')
end

-- Shards share few templates, and most calls read one of them many times: parsed once per call.
local parsed = {} -- template text -> its fields, false when unreadable
local function template_of(plan, number)
  local template = plan.templates[number]
  if template == nil then
    local text = redis.call('HGET', plan.key.templates, number)
    if text and parsed[text] == nil then parsed[text] = parse_template(text, default_cap) or false end
    template = text and parsed[text]
    plan.templates[number] = template
  end
  return template
end

-- The schedule that is being looked at; not a table, for this is the hot path.
local entry_id, entry_definition, entry_template, entry_timing, entry_seed, entry_finish
local entry_body, entry_argsrepr, entry_kwargsrepr, entry_headers, entry_escaped_id
-- Reads a definition; nil and why it cannot be used.
local function read_entry(plan, id, definition)
  if not definition then return nil, 'missing definition' end
  local number, timing, finish
  number, entry_seed, timing, finish, entry_body, entry_argsrepr, entry_kwargsrepr, entry_headers, entry_escaped_id =
    match(definition, '^([^\31]+)\31([^\31]+)\31([^\31]+)\31([^\31]*)\31([^\31]+)\31([^\31]*)\31([^\31]*)\31([^\31]*)\31([^\31]*)\31')
  entry_id, entry_definition = id, definition
  entry_template, entry_timing = number and template_of(plan, number), timing and timing_of(timing)
  if not entry_template or not entry_timing then return nil, 'unreadable definition or template' end
  entry_finish = finish ~= '' and tonumber(finish) or nil
  return true
end

-- The run in flight of a schedule, as lua/keys.ts tells; false when none is.
local function flight_of(plan, id)
  if plan.flights[id] == nil then plan.flights[id] = redis.call('HGET', plan.key.journal, id) or false end
  return plan.flights[id]
end

local function runs_of(plan, id)
  if plan.runs[id] == nil then plan.runs[id] = tonumber(redis.call('HGET', plan.key.runs, id) or 0) end
  return plan.runs[id]
end

local function is_exhausted(plan, id)
  return entry_timing.max_runs and runs_of(plan, id) >= entry_timing.max_runs
end

-- Takes a schedule from wherever it waits for its next run.
local function forget_next(plan, id)
  -- One that was stopped stays so.
  if redis.call('HGET', plan.key.held, id) == '-' then return end
  for _, name in ipairs({ 'not_due', 'not_claimed', 'not_missed', 'not_held' }) do plan[name][#plan[name] + 1] = id end
end

-- Keeps the run that overlaps the one in flight, the earliest of them; whether it did.
local function buffer(plan, flight, due)
  local head, buffered, tail = match(flight, '^(.*\31)(%d*)(\31%d+)$')
  if not head or entry_template.journal ~= 'b' or buffered ~= '' then return false end
  plan.flights[entry_id] = head .. format('%.0f', due) .. tail
  append(plan.new_flights, entry_id, plan.flights[entry_id])
  return true
end

-- The first runs that this call sends, which are told one by one if they are all.
local few = {}

-- Many runs in a row share their due time, and printing numbers is dear.
local shown_due, due_text, hex_due, shown_next, shown_fraction, next_text

-- Pushes a run of the schedule: its lateness, or nil when it does not fit into this call any more.
local function push_run(plan, due, run, expires_at)
  local template = entry_template
  if due ~= shown_due then shown_due, due_text, hex_due = due, format('%.0f', due), format('%012x', due) end
  local last_group = run == 0 and hex_due or format('f%011x', run)
  local task_id, attempt, to_correlation_id
  if template.journal then
    task_id, attempt = entry_seed .. plan.group .. last_group, 'b001-'
    to_correlation_id = format(', "run": %d, "attempt": 1, "journal": %s', run, plan.json_prefix) .. template.after_attempt
  else
    task_id, attempt = entry_seed .. (run == 0 and '8000-' or '8001-') .. last_group, '9001-'
    to_correlation_id = run == 0 and template.to_correlation_id
      or format(', "run": %d, "attempt": 1', run) .. template.after_attempt
  end
  local expires, expiration = template.unexpiring, ''
  if expires_at then
    expires = template.to_expires .. '"' .. iso_time(expires_at) .. '"' .. template.to_root_id
    expiration = format('"expiration": "%.0f", ', expires_at - now)
  end
  local to_schedule = template.plain
  if entry_headers ~= '' or entry_kwargsrepr ~= '{}' then
    to_schedule = template.to_kwargsrepr .. entry_kwargsrepr .. template.to_headers .. entry_headers .. template.to_schedule
  end
  local message = template.open .. entry_body .. template.to_id .. task_id .. expires .. task_id .. template.to_argsrepr
    .. entry_argsrepr .. to_schedule .. (entry_escaped_id == '' and entry_id or entry_escaped_id) .. template.to_due .. due_text
    .. to_correlation_id .. task_id .. template.to_expiration .. expiration .. template.to_tag .. entry_seed .. attempt
    .. last_group .. template.close
  if #message > bytes_left and sent > 0 then return nil end
  push(template.pushes, template.queue, message)
  bytes_left = bytes_left - #message
  sent = sent + 1
  if template.journal then
    local tag = entry_seed .. attempt .. last_group
    local flight = table.concat({ task_id, due_text, run, 1, tag, template.list, '', now_text }, '\31')
    plan.flights[entry_id] = flight
    append(plan.new_flights, entry_id, flight)
    -- A bundled worker tells the journal itself; of a Celery worker's run only its result tells.
    if template.time_limit then append(plan.new_tasks, task_id, entry_id) end
    append(plan.deadlines, template.time_limit and max(expires_at or now, now) + template.time_limit + GRACE_MS or now + LOOK_AGAIN_MS, entry_id)
  end
  local lateness = now - due
  if lateness > LATE_MS or run ~= 0 then
    tell(plan, entry_id, 'd', due, run, 1, lateness, task_id)
  elseif sent <= FEW then
    few[sent] = { plan, entry_id, 'd', due, run, 1, lateness, task_id }
  end
  return lateness
end

-- Sends a run of the schedule if its rules allow it now. `kind` is nil for a regular run, t(riggered), b(ackfilled) or o (held back
-- by overlap). Returns what became of it, and its lateness when it was sent:
--   sent; expired, skipped, refused, exhausted, buried: dropped; buffered, flying, waits: not yet; full: no room in this call.
local function deliver(plan, due, run, kind)
  local template, timing, id = entry_template, entry_timing, entry_id
  local is_extra = kind == 't' or kind == 'b'
  local expires_at = template.expires
  -- A backfilled run is sent long after its due time, on purpose.
  if expires_at and template.expires_kind == 'r' then expires_at = expires_at + (kind == 'b' and now or due) end
  if expires_at and expires_at <= now then
    misfire(plan, id, due, 1)
    return 'expired'
  end
  if template.journal then
    local flight = flight_of(plan, id)
    if flight then
      if kind then return 'waits' end
      -- A loop comes back when its run in flight ends.
      if timing.kind == 'a' then return 'flying' end
      if buffer(plan, flight, due) then return 'buffered' end
      count('skipped', 1)
      tell(plan, id, 's', due, run, 1, '', '')
      return 'skipped'
    end
  end
  if not is_extra and is_exhausted(plan, id) then return 'exhausted' end
  local queue = template.queue
  if not queue.length then
    bury(plan, 'schedule', id, due, 'queue ' .. queue.name .. ' is not a list', entry_definition)
    return 'buried'
  end
  if queue.length >= template.cap then
    if kind or timing.kind == 'o' or timing.kind == 'a' then return 'waits' end
    refused = refused + 1
    count('refused', 1)
    count('refused:' .. queue.name, 1)
    tell(plan, id, 'r', due, run, 1, '', '')
    return 'refused'
  end
  local lateness = push_run(plan, due, run, expires_at)
  if not lateness then return 'full' end
  if timing.max_runs and not is_extra then
    plan.runs[id] = runs_of(plan, id) + 1
    append(plan.new_runs, id, plan.runs[id])
  end
  if kind ~= 'b' then latenesses[lateness] = (latenesses[lateness] or 0) + 1 else count('dispatched', 1) end
  return 'sent', lateness
end

-- The regular run of the schedule that follows the one due then, ms; nil when none does, false when it is not known yet.
local function following(plan, due)
  local timing, finish = entry_timing, entry_finish
  if timing.kind == 'e' and timing.plain then
    local due_next = due + timing.first
    return not (finish and due_next >= finish) and due_next or nil
  end
  if timing.kind == 'e' or timing.kind == 'c' then return next_due(plan.key, entry_id, timing, finish, due) end
  return nil
end

-- What the schedule has missed from `due` on. Returns the first and last of those that are to be sent (nil: none), how many the
-- policy drops, the regular run that comes next, and strictly after when to look for it while it is not known.
local function judge_missed(plan, due)
  local timing, finish = entry_timing, entry_finish
  local policy, grace_ms = sub(entry_template.misfire, 1, 1), tonumber(sub(entry_template.misfire, 2))
  local function is_dropped(at) return policy == 's' or (grace_ms and at < now - grace_ms) end
  if timing.kind == 'o' or timing.kind == 'a' then
    if is_dropped(due) then return nil, nil, 1, nil end
    return due, due, 0, nil
  end
  if timing.kind == 'e' and timing.plain then
    local interval = timing.first
    local newest = due + floor((now - due) / interval) * interval
    if finish and newest >= finish then newest = due + floor((finish - 1 - due) / interval) * interval end
    local missed, due_next = (newest - due) / interval + 1, following(plan, newest)
    local oldest = policy == 'l' and newest or due
    if grace_ms and oldest < now - grace_ms then oldest = due + ceil((now - grace_ms - due) / interval) * interval end
    if policy == 's' or oldest > newest then return nil, nil, missed, due_next end
    return oldest, newest, (oldest - due) / interval, due_next
  end
  if timing.kind == 'c' and not timing.jitter and not timing.exclusion then
    local times = times_of(plan.key, timing.first)
    local from = position_after(times, due - 1, 1, 1)
    if tonumber(time_at(times, from)) == due then
      local to = position_after(times, finish and min(now, finish - 1) or now, 1, 1) - 1
      local newest, first = tonumber(time_at(times, to)), policy == 'l' and to or from
      local due_next = following(plan, newest)
      if grace_ms then first = max(first, position_after(times, now - grace_ms - 1, 1, 1)) end
      if policy == 's' or first > to then return nil, nil, to - from + 1, due_next, newest end
      -- What follows is not known: a later one may be the latest.
      if policy == 'l' and due_next == false then return nil, nil, to - from, false, newest - 1 end
      return tonumber(time_at(times, first)), newest, first - from, due_next, newest
    end
  end
  local oldest, newest, dropped, at, last = nil, nil, 0, due
  repeat
    if is_dropped(at) then
      dropped = dropped + 1
    else
      if newest and policy == 'l' then dropped = dropped + 1 end
      oldest, newest = policy == 'l' and at or oldest or at, at
    end
    last, at, steps_left = at, following(plan, at), steps_left - 1
  until not at or at > now or steps_left <= 0
  if at and at > now or at == nil then return oldest, newest, dropped, at end
  -- Not at the end of what was missed: the latest so far may be followed by a later one, so it is looked at once more.
  if policy == 'l' and newest then return nil, nil, dropped, at and newest, newest - 1 end
  return oldest, newest, dropped, at, last
end

-- Lets missed runs wait for their turn; how many that waited before them are dropped.
local function queue_missed(plan, id, oldest, newest)
  local range = format('%.0f-%.0f', oldest, newest)
  local waiting = redis.call('ZSCORE', plan.key.missed, id)
  local policy = sub(entry_template.misfire, 1, 1)
  if not waiting or policy == 'l' then
    append(plan.new_missed, format('%.0f', oldest), id)
    if waiting or newest > oldest then append(plan.new_ranges, id, range) end
    return waiting and 1 or 0
  end
  local ranges = redis.call('HGET', plan.key.missed_ranges, id) or format('%s-%s', waiting, waiting)
  -- While a schedule falls further and further behind, its last range grows.
  local head, last = match(ranges, '^(.*%-)(%d+)$')
  if following(plan, tonumber(last)) == oldest then
    append(plan.new_ranges, id, head .. format('%.0f', newest))
  else
    append(plan.new_ranges, id, ranges .. ',' .. range)
  end
  return 0
end

-- Where the schedule goes after its regular run: `due_next` nil, false or ms as `following` tells; `after` for a claim.
local function move_on(plan, due_next, after, lateness)
  local id, timing = entry_id, entry_timing
  if due_next then
    local fraction = lateness and timing.kind == 'e' and timing.plain and (fractions[lateness] or fraction_of(lateness)) or ''
    if due_next ~= shown_next or fraction ~= shown_fraction then
      shown_next, shown_fraction, next_text = due_next, fraction, format('%.0f', due_next) .. fraction
    end
    append(plan.new_due, next_text, id)
    return
  end
  plan.not_due[#plan.not_due + 1] = id
  if due_next == false then append(plan.claims, format('%.0f', after), id) end
end

-- A last run as `last` tells it; many in a row are the same.
local told_due, told_lateness, told_text
local function last_text(due, lateness)
  if due ~= told_due or lateness ~= told_lateness then
    told_due, told_lateness, told_text = due, lateness, format('%.0f:%.0f', due, lateness)
  end
  return told_text
end

-- Notes that a one-shot has come to its end.
local function finish_once(plan, lateness)
  append(plan.done, now_text .. (lateness and (fractions[lateness] or fraction_of(lateness)) or ''), entry_id)
  if lateness and lateness >= 2046 then append(plan.told, entry_id, last_text(entry_timing.first, lateness)) end
end

-- Holds a one-shot or loop for which its queue has no room: due again soon, under its own due time.
local function hold(plan, due)
  append(plan.new_due, entry_timing.kind == 'a' and format('%.4f', now + HOLD_MS + 1 / 2048) or now + HOLD_MS, entry_id)
  if entry_timing.kind == 'a' then append(plan.held, entry_id, format('%.0f', due)) end
end

-- Plans a schedule whose regular run is due; false when its message does not fit into this call any more.
local function plan_due(plan, id, score, definition)
  local usable, why = read_entry(plan, id, definition)
  if not usable or entry_timing.is_paused then
    plan.not_due[#plan.not_due + 1] = id
    bury(plan, 'schedule', id, floor(score), why or 'paused, yet due', definition or '')
    return true
  end
  local timing, due = entry_timing, floor(score)
  local kind, is_held = timing.kind, false
  if kind == 'o' then
    is_held, due = due > timing.first, timing.first
  elseif kind == 'a' and score > due then
    is_held, due = true, tonumber(redis.call('HGET', plan.key.held, id) or due)
  end

  -- Most of what is due is plain and on time: the same as below, in fewer steps.
  local template, late_by = entry_template, now - due
  if timing.plain and template.plain_rules and not entry_finish and not is_held and late_by <= misfire_after and late_by < 2046
    and kind ~= 'a' and template.queue.length and template.queue.length < template.cap then
    if not push_run(plan, due, 0, nil) then return false end
    latenesses[late_by] = (latenesses[late_by] or 0) + 1
    if kind == 'e' then
      move_on(plan, due + timing.first, nil, late_by)
    elseif kind == 'o' then
      finish_once(plan, late_by)
      move_on(plan, nil, nil, late_by)
    else
      append(plan.told, id, last_text(due, late_by))
      local times = plan.times[timing.first]
      if not times then
        times = times_of(plan.key, timing.first)
        plan.times[timing.first] = times
      end
      move_on(plan, occurrence_after(times, due), due, late_by)
    end
    return true
  end

  local outcome, lateness, due_next, after
  if entry_finish and due >= entry_finish then
    outcome = 'ended'
  elseif now - due > misfire_after and not is_held then
    if steps_left <= 0 then return false end
    local oldest, newest, dropped
    oldest, newest, dropped, due_next, after = judge_missed(plan, due)
    if oldest and oldest == newest and recovery_rate > 0 and tokens >= 1 and not shards_missing[plan.key.prefix] then
      -- None waits before it, and the bucket allows it now.
      outcome, lateness = deliver(plan, oldest, 0)
      if outcome == 'full' then return false end
      tokens, is_token_spent = tokens - 1, true
      misfire(plan, id, due, dropped)
      if outcome == 'waits' then
        hold(plan, oldest)
        return true
      end
      due = oldest
      local is_last = outcome == 'exhausted' or timing.max_runs and runs_of(plan, id) >= timing.max_runs
      if is_last then due_next, after = nil, nil end
    else
      if oldest then dropped = dropped + queue_missed(plan, id, oldest, newest) end
      misfire(plan, id, due, dropped)
      outcome = oldest and 'missed' or 'dropped'
    end
  else
    outcome, lateness = deliver(plan, due, 0)
    if outcome == 'full' then return false end
    if outcome == 'waits' then
      hold(plan, due)
      return true
    end
    if not is_exhausted(plan, id) then due_next, after = following(plan, due), due end
  end

  if kind == 'a' then
    if is_held then plan.not_held[#plan.not_held + 1] = id end
    -- A loop whose run was dropped goes on: nothing will complete.
    if outcome == 'dropped' or outcome == 'expired' or outcome == 'refused' or outcome == 'buried' then
      due_next, after = next_due(plan.key, id, timing, entry_finish, now + timing.first - 1)
    end
  elseif kind == 'o' and outcome ~= 'missed' then
    finish_once(plan, lateness)
  end
  if kind ~= 'o' then
    -- The fraction of a score tells the last run of a plain interval schedule. Where it cannot, `last` does.
    if lateness and (lateness >= 2046 or not due_next or kind ~= 'e' or not timing.plain) then
      append(plan.told, id, last_text(due, lateness))
    elseif not lateness and kind == 'e' and timing.plain then
      local last_due, last_lateness = last_run(plan.key, id, timing, score)
      if last_due then append(plan.told, id, last_text(last_due, last_lateness)) end
    end
  end
  move_on(plan, due_next, after, lateness)
  return true
end

-- The missed run of the schedule that waits behind the one due then: its due time and what is left of the ranges; nil when none.
local function next_missed(plan, due, ranges)
  while ranges do
    local range_end, rest = match(ranges, '^%d+%-(%d+),?(.*)$')
    local due_next = due < tonumber(range_end) and following(plan, due)
    if due_next and due_next <= tonumber(range_end) then
      return due_next, format('%.0f-%s', due_next, range_end) .. (rest ~= '' and ',' .. rest or '')
    end
    if rest == '' then return nil end
    -- The beginning of a range is a due time itself.
    local start = match(rest, '^(%d+)')
    if tonumber(start) > due then return tonumber(start), rest end
    ranges = rest
  end
  return nil
end

-- Whether a run that was due when it was missed is not any more: its end or exclusion were moved since.
local function is_ruled_out(plan, due)
  if entry_finish and due >= entry_finish then return true end
  local exclusion = entry_timing.exclusion
  return exclusion and excluded_until(times_of(plan.key, exclusion), due) and true or false
end

-- Plans the oldest missed run of a schedule; false when its message does not fit into this call any more.
local function plan_missed(plan, id, score, definition)
  local usable, why = read_entry(plan, id, definition)
  local due = floor(score)
  if not usable then
    plan.not_missed[#plan.not_missed + 1] = id
    bury(plan, 'schedule', id, due, why, definition or '')
    return true
  end
  local kind = entry_timing.kind
  local outcome, lateness
  if is_ruled_out(plan, due) then outcome = 'ended' else outcome, lateness = deliver(plan, due, 0) end
  if outcome == 'full' then return false end
  if lateness then append(plan.told, id, last_text(due, lateness)) end
  local due_next, ranges = nil, nil
  if outcome == 'waits' then
    hold(plan, due)
  elseif kind == 'o' then
    finish_once(plan, lateness)
  elseif kind == 'a' then
    if outcome ~= 'sent' and outcome ~= 'flying' and outcome ~= 'exhausted' then
      local at, after = next_due(plan.key, id, entry_timing, entry_finish, now + entry_timing.first - 1)
      if at then append(plan.new_due, format('%.0f', at), id) end
      if at == false then append(plan.claims, format('%.0f', after), id) end
    end
  elseif is_exhausted(plan, id) then
    plan.not_due[#plan.not_due + 1] = id
  else
    due_next, ranges = next_missed(plan, due, redis.call('HGET', plan.key.missed_ranges, id) or nil)
  end
  if not due_next then
    plan.not_missed[#plan.not_missed + 1] = id
  else
    append(plan.new_missed, format('%.0f', due_next), id)
    append(plan.new_ranges, id, ranges)
  end
  return true
end

-- Plans the extra runs of a schedule, in their order; false when the next one does not fit into this call any more.
local function plan_backlog(plan, member, definition)
  local id = sub(member, 2)
  local backlog = plan.key.prefix .. 'backlog:' .. id
  local items = redis.call('LRANGE', backlog, 0, MAX_EXTRAS)
  local usable, why = read_entry(plan, id, definition)
  if not usable then
    local waiting = redis.call('LLEN', backlog)
    plan.not_extra[#plan.not_extra + 1] = member
    if waiting > 0 then append(plan.popped, backlog, waiting) end
    bury(plan, 'schedule', id, now, why .. ', ' .. waiting .. ' extra runs', definition or '')
    return true
  end
  local popped, outcome, lateness, own_seed = 0, nil, nil, entry_seed
  for i = 1, min(#items, MAX_EXTRAS) do
    local kind, run, due, seed = match(items[i], '^(%a)(%d*):(%d+):?(.*)$')
    due = tonumber(due)
    -- Whoever triggered it was told its task id: a timing that changed since does not change that.
    entry_seed = seed ~= '' and seed or own_seed
    if not due then
      bury(plan, 'schedule', id, now, 'unreadable extra run', items[i])
      outcome = 'dropped'
    elseif kind == 'o' and entry_timing.is_paused then
      outcome = 'dropped'
    else
      outcome, lateness = deliver(plan, due, tonumber(run) or 0, kind)
    end
    if outcome == 'full' or outcome == 'waits' then break end
    popped = popped + 1
    if lateness and kind == 'o' then append(plan.told, id, last_text(due, lateness)) end
    -- A loop that waits comes back when this run ends.
    if lateness and entry_timing.kind == 'a' and not entry_timing.is_paused then forget_next(plan, id) end
    if is_exhausted(plan, id) then plan.not_due[#plan.not_due + 1] = id end
  end
  if popped > 0 then append(plan.popped, backlog, popped) end
  if popped == #items then
    plan.not_extra[#plan.not_extra + 1] = member
  elseif outcome == 'waits' then
    append(plan.extra_held, now + HOLD_MS, member)
  end
  return outcome ~= 'full'
end

-- Plans one parked message; false when it does not fit into this call any more.
local function plan_parked(plan, tag, value)
  local list, envelope = nil, nil
  if value then list, envelope = parked_message(tag, value) end
  if not list then
    bury(plan, 'parked', tag, now, 'missing or unreadable parked message', value or '')
    plan.unparked[#plan.unparked + 1] = tag
    return true
  end
  local queue = queue_of(match(list, '^(.*)\6\022%d$') or list)
  if not queue.length then
    bury(plan, 'parked', tag, now, 'queue ' .. queue.name .. ' is not a list', envelope)
  elseif queue.length >= default_cap then
    append(plan.extra_held, now + HOLD_MS, tag)
    return true
  elseif #envelope > bytes_left and sent > 0 then
    return false
  else
    push(pushes_of(list), queue, envelope)
    bytes_left = bytes_left - #envelope
    sent = sent + 1
    count('unparked', 1)
  end
  plan.unparked[#plan.unparked + 1] = tag
  return true
end

-- What a plan writes, a list for each; most calls need few of them, so they are made when first used.
local ON_DEMAND = {
  __index = function(plan, name)
    if not WRITTEN[name] then return nil end
    local list = {}
    plan[name] = list
    return list
  end,
}

-- The members that are not among others: of (id, score, ...) both.
local function without(members, others)
  local seen, rest = {}, {}
  for i = 1, #others, 2 do seen[others[i]] = true end
  for i = 1, #members, 2 do if not seen[members[i]] then append(rest, members[i], members[i + 1]) end end
  return rest
end

-- What this call does to one shard with what is due there: `heads` and `missed` (id, score, ...), `extras` (members).
-- Nothing is written before every shard's plan is made: Lua does not roll back.
local function plan_shard(key, heads, missed, extras)
  local plan = setmetatable({ key = key, templates = {}, times = {}, flights = {}, runs = {}, is_cut = false }, ON_DEMAND)
  local shard = tonumber((match(key.prefix, '{(%d+)}:$')))
  plan.group, plan.json_prefix = format('a%03x-', shard), cjson.encode(key.prefix)
  local function each(members, first, step, fields_key, id_of, plan_one)
    local ids = {}
    for i = first, #members, step do ids[#ids + 1] = id_of and id_of(members[i]) or members[i] end
    if #ids == 0 or plan.is_cut then return end
    local values = redis.call('HMGET', fields_key, unpack(ids))
    for i = 1, #ids do
      local at = first + (i - 1) * step
      if not plan_one(plan, members[at], step == 2 and tonumber(members[at + 1]) or values[i], values[i]) then
        plan.is_cut = true
        return
      end
      entries_left = entries_left - 1
    end
  end
  local parked, backlogs = {}, {}
  for _, member in ipairs(extras) do
    local list = string.byte(member) == 31 and backlogs or parked
    list[#list + 1] = member
  end
  -- One that is due and has missed runs as well is planned once in a call, else each plan would undo what the other writes.
  if #missed > 0 then
    if missed_first then heads = without(heads, missed) else missed = without(missed, heads) end
  end
  if missed_first then each(missed, 1, 2, key.definitions, nil, plan_missed) end
  each(backlogs, 1, 1, key.definitions, function(member) return sub(member, 2) end, plan_backlog)
  each(heads, 1, 2, key.definitions, nil, plan_due)
  if not missed_first then each(missed, 1, 2, key.definitions, nil, plan_missed) end
  each(parked, 1, 1, key.parked, nil, plan_parked)
  return plan
end

local function head_of(name)
  local head = redis.call('ZRANGE', name, 0, 0, 'WITHSCORES')
  return head[2] and floor(tonumber(head[2])) or math.huge
end

local plans, more, missed_until = {}, 0, math.huge
local heads_of_extra = {} -- due key of a shard -> when its first extra is to be tried
-- The oldest missed runs of these shards, as many as the bucket and this call have room for: by shard, id, score, ...
local missed_by_shard, missed_left = {}, 0
if next(shards_missing) then
  local missing, due_now, found = {}, 0, {}
  for at = 3, #KEYS do
    if shards_missing[shard_keys(KEYS[at]).prefix] then missing[#missing + 1] = KEYS[at] end
    if not missed_first then due_now = due_now + redis.call('ZCOUNT', KEYS[at], '-inf', now) end
  end
  -- At least a quarter of the call; what is due now has the rest of it.
  local share = min(floor(tokens), entries_left - min(due_now, floor(entries_left * 3 / 4)))
  -- From each shard somewhat more than its part: which of them are the oldest is seen then.
  local per_shard = ceil(2 * share / max(#missing, 1))
  for _, due_key in ipairs(missing) do
    local key = shard_keys(due_key)
    local members = share > 0 and redis.call('ZRANGE', key.missed, 0, per_shard - 1, 'WITHSCORES') or NONE
    for i = 1, #members, 2 do found[#found + 1] = { due_key, members[i], tonumber(members[i + 1]) } end
    if share > 0 and #members == 0 then no_longer_missing[key.prefix] = true end
    missed_until = now + (recovery_rate > 0 and ceil(1000 / recovery_rate) or 0)
  end
  table.sort(found, function(one, other) return one[3] < other[3] end)
  missed_left = max(min(share, #found), 0)
  tokens = tokens - missed_left
  for i = 1, missed_left do
    local due_key = found[i][1]
    missed_by_shard[due_key] = missed_by_shard[due_key] or {}
    append(missed_by_shard[due_key], found[i][2], found[i][3])
  end
end

for at = 3, #KEYS do
  local due = KEYS[at]
  local key = shard_keys(due)
  local heads, missed, extras = NONE, missed_by_shard[due] or NONE, NONE
  local head_of_extra = head_of(key.extra)
  heads_of_extra[due] = head_of_extra
  if entries_left > missed_left and head_of_extra <= now - grace then
    -- A share of the call, so that neither extras nor schedules wait for all of the others.
    local share = ceil((entries_left - missed_left) / 8)
    extras = redis.call('ZRANGEBYSCORE', key.extra, '-inf', now, 'LIMIT', 0, share)
    if #extras == share then more = 1 end
  end
  local room = entries_left - missed_left - #extras
  missed_left = missed_left - #missed / 2
  if room > 0 and (grace == 0 or head_of(due) <= now - grace) then
    heads = redis.call('ZRANGEBYSCORE', due, '-inf', '(' .. now + 1, 'WITHSCORES', 'LIMIT', 0, room)
  end
  if #heads > 0 or #missed > 0 or #extras > 0 then
    plans[#plans + 1] = plan_shard(key, heads, missed, extras)
    plans[#plans].had_missed = shards_missing[key.prefix] ~= nil and #missed > 0
  end
end
if entries_left <= 0 then more = 1 end

-- Keeps the bucket while there are missed runs, and after that until it would be full again.
local function write_recovery()
  for prefix in pairs(no_longer_missing) do
    redis.call('HDEL', recovery, prefix)
    shards_missing[prefix] = nil
  end
  shards_missing.tokens, shards_missing.at = nil, nil
  if recovery_rate > 0 then redis.call('HSET', recovery, 'tokens', tostring(max(tokens, 0)), 'at', now_text) end
  if next(shards_missing) then
    redis.call('PERSIST', recovery)
  else
    redis.call('PEXPIRE', recovery, recovery_rate > 0 and ceil(max(100, 1000 / recovery_rate)) or 1)
  end
end

-- Who found something asks again soon anyway; only who found nothing needs to know how long to sleep.
if #plans == 0 then
  if next(no_longer_missing) then write_recovery() end
  local next_head = missed_until
  for at = 3, #KEYS do next_head = min(next_head, head_of(KEYS[at]), heads_of_extra[KEYS[at]]) end
  return { now, 0, more, next_head < math.huge and next_head or -1, 0, 0 }
end

if sent <= FEW then
  for _, run in pairs(few) do tell(unpack(run)) end
end

-- From here on only writes. LPUSH and ZADD come first: Redis refuses them when memory is full, before anything was done.
write_pushes()
for _, plan in ipairs(plans) do
  local key = plan.key
  for _, one in ipairs(WRITES) do
    local list = rawget(plan, one[1])
    if list then redis.call(one[2], key[one[3]], unpack(list)) end
  end
  local popped, dropped = rawget(plan, 'popped') or NONE, rawget(plan, 'dropped') or NONE
  for i = 1, #popped, 2 do redis.call('LPOP', popped[i], popped[i + 1]) end
  for i = 1, #dropped, 2 do redis.call('HINCRBY', key.dropped, dropped[i], dropped[i + 1]) end
  for _, dead in ipairs(rawget(plan, 'dead') or NONE) do
    redis.call('XADD', key.dead_letters, 'MAXLEN', '~', MAX_DEAD_LETTERS, '*',
      'kind', dead[1], 'id', dead[2], 'due', dead[3], 'reason', dead[4], 'data', dead[5])
  end
  local occurrences = rawget(plan, 'occurrences')
  if occurrences then
    redis.call('XADD', key.occurrences, 'MAXLEN', '~', MAX_OCCURRENCES, '*', 'r', table.concat(occurrences, '\30'))
  end
  if plan.had_missed and redis.call('ZCARD', key.missed) == 0 then no_longer_missing[key.prefix] = true end
  if rawget(plan, 'new_missed') then
    no_longer_missing[key.prefix] = nil
    if not shards_missing[key.prefix] then
      redis.call('HSET', recovery, key.prefix, 1)
      redis.call('PERSIST', recovery)
    end
    shards_missing[key.prefix] = 1
  end
  if is_journaled then
    local changes = {}
    local done, new_runs = rawget(plan, 'done') or NONE, rawget(plan, 'new_runs') or NONE
    for i = 2, #done, 2 do append(changes, 'state', state_of(key, done[i])) end
    for i = 1, #new_runs, 2 do append(changes, 'state', state_of(key, new_runs[i])) end
    record_changes(key, epoch, changes)
  end
  if plan.is_cut then more = 1 end
end
if #bucket > 0 or is_token_spent then write_recovery() end

-- Totals and lateness of the whole call are kept with its first shard: who reads them adds up all shards.
local reply, increments, dispatched = { now, sent, more, 0, misfired, refused }, {}, 0
for lateness, by in pairs(latenesses) do
  dispatched = dispatched + by
  append(reply, lateness, by)
  append(increments, 'INCRBY', 'u32')
  append(increments, '#' .. lateness_bucket(lateness), by)
end
if dispatched > 0 then
  count('dispatched', dispatched)
  redis.call('BITFIELD', plans[1].key.lateness, unpack(increments))
end
for name, by in pairs(counted) do redis.call('HINCRBY', plans[1].key.counts, name, by) end
return reply
