-- dispatch: move what is due from the shards' schedules into Celery queues, oldest first.
-- KEYS[1] meta            hash    namespace record
-- then per shard, ten keys:
--   due                   zset    schedule id -> next due time and last lateness (lua/score.ts)
--   definitions           hash    schedule id -> definition (lua/definition.ts)
--   templates             hash    number -> template
--   last                  hash    schedule id -> due:lateness of the last run
--   completed             zset    finished one-shots
--   extra                 zset    delivery tag of a parked message -> when to try it
--   parked                hash    delivery tag -> list key and envelope
--   counts                hash    totals
--   lateness              string  histogram (lua/lateness.ts)
--   dead_letters          stream  what cannot be dispatched
-- Queue lists are not passed: their names come from templates and parked messages.
-- ARGV[1] epoch           text    of the namespace, as the caller knows it
-- ARGV[2] limit           int     1..1000 entries of `due` and `extra` in this call, over all shards
-- ARGV[3] grace           int     ms; 0 for the owner; a helper leaves a shard alone until its head is this much overdue
-- ARGV[4] misfire_after   int     ms; a schedule whose oldest run is more overdue than this has missed runs
-- ARGV[5] default_cap     int     most messages in a queue whose schedule does not say otherwise
-- Returns                 [now ms, messages sent, 1 when more is due, next due ms (0: something was due, ask again soon;
--                         -1: nothing waits), runs misfired, runs refused, then pairs: lateness ms, runs dispatched so late]
-- Errors                  NAMESPACE_GONE
-- Atomic                  an occurrence is either still due or in its queue, never both, never neither
-- Cost                    about 7 us a message, at most 1 MiB of messages; 5 commands a shard with something due, 2 to 4 without
--- @include "redis-now"
--- @include "next-run"
--- @include "lateness-bucket"
local KEYS_PER_SHARD, MAX_BYTES, HOLD_MS, MAX_DEAD_LETTERS, TEMPLATE_FIELDS = 10, 1048576, 1000, 10000, 19
local epoch, limit, grace = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local misfire_after, default_cap = tonumber(ARGV[4]), tonumber(ARGV[5])
local floor, ceil, format, find, match, sub = math.floor, math.ceil, string.format, string.find, string.match, string.sub

if redis.call('HGET', KEYS[1], 'epoch') ~= epoch then return redis.error_reply('NAMESPACE_GONE') end

local now = redis_now()
local now_text = format('%.0f', now)
local all_pushes, pushes_by_list, queues = {}, {}, {}
local entries_left, bytes_left = limit, MAX_BYTES
local sent, misfired, refused = 0, 0, 0
local latenesses = {} -- ms -> runs dispatched so late

local function split(text)
  local fields, from = {}, 1
  while true do
    local at = find(text, '\31', from, true)
    if at == nil then
      fields[#fields + 1] = sub(text, from)
      return fields
    end
    fields[#fields + 1] = sub(text, from, at - 1)
    from = at + 1
  end
end

local function unescaped(name)
  return (string.gsub(name, '%%(%x%x)', function(hex) return string.char(tonumber(hex, 16)) end))
end

-- A queue as this call finds it: how many messages it holds with those of this call, false when one of its keys is no list.
local function queue_of(name)
  local queue = queues[name]
  if queue == nil then
    local length = 0
    for _, step in ipairs({ '', '\6\0223', '\6\0226', '\6\0229' }) do
      local one = redis.pcall('LLEN', name .. step)
      length = length and type(one) == 'number' and length + one
    end
    queue = { name = name, length = length }
    queues[name] = queue
  end
  return queue
end

-- What this call pushes to a list, oldest first.
local function pushes_of(list)
  local pushes = pushes_by_list[list]
  if pushes == nil then
    pushes = { list = list, n = 0 }
    pushes_by_list[list] = pushes
    all_pushes[#all_pushes + 1] = pushes
  end
  return pushes
end

local function push(pushes, queue, message)
  local n = pushes.n + 1
  pushes.n, pushes[n] = n, message
  queue.length = queue.length + 1
  bytes_left = bytes_left - #message
  sent = sent + 1
end

-- The fraction of a score that tells how late the last run was dispatched (lua/score.ts); four digits tell 2048 steps apart.
local fractions = {}
local function fraction_of(lateness)
  local code = lateness < 2046 and math.max(lateness + 1, 1) or 2047
  fractions[lateness] = sub(format('%.4f', code / 2048), 2)
  return fractions[lateness]
end

-- 2026-11-21T03:49:26.392000+00:00: six fraction digits, the one form that Celery 5.2 and newer read alike.
-- Redis's Lua has no os.date; days to civil date as in https://howardhinnant.github.io/date_algorithms.html.
local iso_second, iso_prefix
local function iso(ms)
  local second = floor(ms / 1000)
  if second ~= iso_second then
    local days, rest = floor(second / 86400) + 719468, second % 86400
    local era = floor(days / 146097)
    local day_of_era = days - era * 146097
    local year = floor((day_of_era - floor(day_of_era / 1460) + floor(day_of_era / 36524) - floor(day_of_era / 146096)) / 365)
    local day_of_year = day_of_era - (365 * year + floor(year / 4) - floor(year / 100))
    local month = floor((5 * day_of_year + 2) / 153)
    local day = day_of_year - floor((153 * month + 2) / 5) + 1
    month = month < 10 and month + 3 or month - 9
    year = year + era * 400 + (month <= 2 and 1 or 0)
    iso_second = second
    iso_prefix = format('%04d-%02d-%02dT%02d:%02d:%02d.', year, month, day, floor(rest / 3600), floor(rest / 60) % 60, rest % 60)
  end
  return iso_prefix .. format('%03d', ms % 1000) .. '000+00:00'
end

-- Which occurrence of an interval schedule to send, when the next one is, and how many are dropped as misfired.
-- `due` is the oldest undispatched one, `policy` l(atest), a(ll) or s(kip) with its grace in ms.
local function judge_interval(due, interval, finish, policy)
  if now - due <= misfire_after then return due, due + interval, 0 end
  local newest = due + floor((now - due) / interval) * interval
  if finish and newest >= finish then newest = due + floor((finish - 1 - due) / interval) * interval end
  local missed = (newest - due) / interval + 1
  local kind, grace_ms = sub(policy, 1, 1), tonumber(sub(policy, 2))
  if kind == 's' then return nil, newest + interval, missed end
  local oldest = kind == 'l' and newest or due
  if grace_ms and oldest < now - grace_ms then oldest = due + ceil((now - grace_ms - due) / interval) * interval end
  if oldest > newest then return nil, newest + interval, missed end
  return oldest, oldest + interval, (oldest - due) / interval
end

-- Whether to send a one-shot, and how many are dropped as misfired. One that a queue cap holds back is not judged again.
local function judge_once(at, is_held, policy)
  if is_held or now - at <= misfire_after then return at, 0 end
  local grace_ms = tonumber(sub(policy, 2))
  if sub(policy, 1, 1) == 's' or (grace_ms and now - at > grace_ms) then return nil, 1 end
  return at, 0
end

local counted = {} -- total -> what this call adds to it
local function count(name, by)
  counted[name] = (counted[name] or 0) + by
end

local function bury(plan, kind, id, due, reason, data)
  plan.dead[#plan.dead + 1] = { kind, id, format('%.0f', due), reason, data }
  count('dead', 1)
end

local function append(list, one, other)
  local n = #list
  list[n + 1], list[n + 2] = one, other
end

-- A timing's interval or instant, ms; neither when it is unreadable or paused. Many schedules share one text.
local intervals, instants = {}, {}
local function read_timing(timing)
  if intervals[timing] == nil then
    intervals[timing] = tonumber(match(timing, '^e(%d+):')) or false
    instants[timing] = tonumber(match(timing, '^o(%d+):')) or false
  end
  return intervals[timing], instants[timing]
end

-- A template's fields by name, its pieces joined as far as this call knows what goes between them.
local function read_template(text)
  local fields = split(text)
  if #fields ~= TEMPLATE_FIELDS then return nil end
  local expires = fields[5]
  return {
    pushes = pushes_of(unescaped(fields[1])), queue = queue_of(unescaped(fields[2])), cap = tonumber(fields[3]) or default_cap, misfire = fields[4],
    expires_kind = sub(expires, 1, 1), expires = tonumber(sub(expires, 2)),
    open = fields[6], to_id = fields[7], to_expires = fields[8], to_root_id = fields[9], to_argsrepr = fields[10],
    to_kwargsrepr = fields[11], to_headers = fields[12], to_schedule = fields[13], to_due = fields[14], to_correlation_id = fields[15],
    to_expiration = fields[16], to_tag = fields[17], close = fields[18],
    unexpiring = fields[8] .. 'null' .. fields[9],
    plain = fields[11] .. '{}' .. fields[12] .. fields[13],
  }
end

-- Shards share few templates, and most calls read one of them many times: parsed once per call.
local parsed = {} -- template text -> its fields, false when unreadable
local function template_of(plan, number)
  local text = redis.call('HGET', plan.templates, number)
  if text and parsed[text] == nil then parsed[text] = read_template(text) or false end
  return text and parsed[text]
end

-- Many runs in a row share their due time, and printing numbers is dear: texts of the last due time and of what follows it.
local shown_due, due_text, hex_due, next_shown, next_text

-- Plans one schedule; false when its message does not fit into this call any more.
local function plan_schedule(plan, id, score, definition, templates)
  local number, seed, timing, finish, body, argsrepr, kwargsrepr, headers, escaped_id = match(definition,
    '^([^\31]+)\31([^\31]+)\31([^\31]+)\31([^\31]*)\31([^\31]+)\31([^\31]*)\31([^\31]*)\31([^\31]*)\31([^\31]*)\31')
  local template, interval, at = nil, nil, nil
  if number then
    template = templates[number]
    if template == nil then
      template = template_of(plan, number)
      templates[number] = template
    end
    interval, at = read_timing(timing)
  end
  if not template or not (interval or at) then
    plan.not_due[#plan.not_due + 1] = id
    bury(plan, 'schedule', id, floor(score), 'unreadable definition or template', definition)
    return true
  end
  finish = finish ~= '' and tonumber(finish)
  local due, next_due, dropped = floor(score), nil, 0
  if interval and not finish and now - due <= misfire_after then
    next_due = due + interval
  elseif finish and (at or due) >= finish then
    due = nil
  elseif interval then
    due, next_due, dropped = judge_interval(due, interval, finish, template.misfire)
  else
    due, dropped = judge_once(at, due > at, template.misfire)
  end

  local lateness = nil -- of what is pushed
  if due then
    local queue, expires_at = template.queue, nil
    if template.expires then expires_at = template.expires + (template.expires_kind == 'r' and due or 0) end
    if expires_at and expires_at <= now then
      dropped = dropped + 1
    elseif not queue.length then
      bury(plan, 'schedule', id, due, 'queue ' .. queue.name .. ' is not a list', definition)
    elseif queue.length >= template.cap then
      if at then
        append(plan.new_due, now + HOLD_MS, id)
        return true
      end
      refused = refused + 1
      count('refused', 1)
      count('refused:' .. queue.name, 1)
    else
      if due ~= shown_due then
        shown_due, due_text, hex_due, next_shown = due, format('%.0f', due), format('%012x', due), nil
      end
      local task_id = seed .. '8000-' .. hex_due
      local expires, expiration = template.unexpiring, ''
      if expires_at then
        expires = template.to_expires .. '"' .. iso(expires_at) .. '"' .. template.to_root_id
        expiration = format('"expiration": "%.0f", ', expires_at - now)
      end
      local to_schedule = template.plain
      if headers ~= '' or kwargsrepr ~= '{}' then
        to_schedule = template.to_kwargsrepr .. kwargsrepr .. template.to_headers .. headers .. template.to_schedule
      end
      local message = template.open .. body .. template.to_id .. task_id .. expires .. task_id .. template.to_argsrepr .. argsrepr
        .. to_schedule .. (escaped_id == '' and id or escaped_id) .. template.to_due .. due_text .. template.to_correlation_id
        .. task_id .. template.to_expiration .. expiration .. template.to_tag .. seed .. '9001-' .. hex_due .. template.close
      if #message > bytes_left and sent > 0 then return false end
      push(template.pushes, queue, message)
      lateness = now - due
      latenesses[lateness] = (latenesses[lateness] or 0) + 1
    end
  end
  if dropped > 0 then
    count('misfired', dropped)
    misfired = misfired + dropped
  end

  local goes_on = next_due and not (finish and next_due >= finish)
  -- The fraction of a score tells the last run. Where it cannot, because the run was very late, was none, or has no score
  -- to follow it, `last` does.
  if lateness and (lateness >= 2046 or (interval and not goes_on)) then
    append(plan.told, id, format('%.0f:%.0f', due, lateness))
  elseif interval and not lateness then
    local last_due, last_lateness = last_run(id, timing, score, plan.last)
    if last_due then append(plan.told, id, format('%.0f:%.0f', last_due, last_lateness)) end
  end
  local fraction = lateness and (fractions[lateness] or fraction_of(lateness)) or ''
  if goes_on then
    if next_due ~= next_shown or not lateness then
      next_shown, next_text = lateness and next_due, format('%.0f', next_due) .. fraction
    end
    append(plan.new_due, next_text, id)
  else
    plan.not_due[#plan.not_due + 1] = id
    if at then append(plan.done, now_text .. fraction, id) end
  end
  return true
end

-- Plans one parked message; false when it does not fit into this call any more.
local function plan_parked(plan, tag, value)
  local list, envelope = nil, nil
  if value then list, envelope = match(value, '^([^\31]+)\31(.*)$') end
  if not list then
    bury(plan, 'parked', tag, now, 'missing or unreadable parked message', value or '')
    plan.unparked[#plan.unparked + 1] = tag
    return true
  end
  local queue = queue_of(match(list, '^(.*)\6\022%d$') or list)
  if not queue.length then
    bury(plan, 'parked', tag, now, 'queue ' .. queue.name .. ' is not a list', envelope)
  elseif queue.length >= default_cap then
    append(plan.held, now + HOLD_MS, tag)
    return true
  elseif #envelope > bytes_left and sent > 0 then
    return false
  else
    push(pushes_of(list), queue, envelope)
    count('unparked', 1)
  end
  plan.unparked[#plan.unparked + 1] = tag
  return true
end

-- What this call does to one shard with `heads` (id, score, ...) and `tags` due. Nothing is written before every shard's
-- plan is made: Lua does not roll back.
local function plan_shard(first_key, heads, tags)
  local plan = {
    due = KEYS[first_key], definitions = KEYS[first_key + 1], templates = KEYS[first_key + 2], last = KEYS[first_key + 3],
    completed = KEYS[first_key + 4], extra = KEYS[first_key + 5], parked = KEYS[first_key + 6], counts = KEYS[first_key + 7],
    lateness = KEYS[first_key + 8], dead_letters = KEYS[first_key + 9],
    new_due = {}, not_due = {}, done = {}, told = {}, dead = {}, unparked = {}, held = {}, is_cut = false,
  }
  if #heads > 0 then
    local ids = {}
    for i = 1, #heads, 2 do ids[(i + 1) / 2] = heads[i] end
    local definitions = redis.call('HMGET', plan.definitions, unpack(ids))
    local templates = {} -- number -> fields, as far as this shard's entries needed them
    for i, id in ipairs(ids) do
      local score = tonumber(heads[2 * i])
      if not definitions[i] then
        plan.not_due[#plan.not_due + 1] = id
        bury(plan, 'schedule', id, floor(score), 'missing definition', '')
      elseif not plan_schedule(plan, id, score, definitions[i], templates) then
        plan.is_cut = true
        break
      end
      entries_left = entries_left - 1
    end
  end
  if #tags > 0 and not plan.is_cut then
    local values = redis.call('HMGET', plan.parked, unpack(tags))
    for i, tag in ipairs(tags) do
      if not plan_parked(plan, tag, values[i]) then
        plan.is_cut = true
        break
      end
      entries_left = entries_left - 1
    end
  end
  return plan
end

local function head_of(key)
  local head = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  return head[2] and floor(tonumber(head[2])) or math.huge
end

local plans, more = {}, 0
local heads_of_extra = {} -- first key of a shard -> when its first extra is to be tried
for first_key = 2, #KEYS, KEYS_PER_SHARD do
  local due, extra = KEYS[first_key], KEYS[first_key + 5]
  local heads, tags = {}, {}
  local head_of_extra = head_of(extra)
  heads_of_extra[first_key] = head_of_extra
  if entries_left > 0 and head_of_extra <= now - grace then
    -- A share of the call, so that neither parked messages nor schedules wait for all of the others.
    local share = ceil(entries_left / 4)
    tags = redis.call('ZRANGEBYSCORE', extra, '-inf', now, 'LIMIT', 0, share)
    if #tags == share then more = 1 end
  end
  if entries_left > #tags and (grace == 0 or head_of(due) <= now - grace) then
    heads = redis.call('ZRANGEBYSCORE', due, '-inf', '(' .. now + 1, 'WITHSCORES', 'LIMIT', 0, entries_left - #tags)
  end
  if #heads > 0 or #tags > 0 then plans[#plans + 1] = plan_shard(first_key, heads, tags) end
end
if entries_left <= 0 then more = 1 end

-- Who found something asks again soon anyway; only who found nothing needs to know how long to sleep.
local next_due = 0
if #plans == 0 then
  next_due = math.huge
  for first_key = 2, #KEYS, KEYS_PER_SHARD do
    next_due = math.min(next_due, head_of(KEYS[first_key]), heads_of_extra[first_key])
  end
  return { now, 0, more, next_due < math.huge and next_due or -1, 0, 0 }
end

-- From here on only writes. LPUSH and ZADD come first: Redis refuses them when memory is full, before anything was done.
for _, pushes in ipairs(all_pushes) do
  if pushes.n > 0 then redis.call('LPUSH', pushes.list, unpack(pushes, 1, pushes.n)) end
end
for _, plan in ipairs(plans) do
  if #plan.new_due > 0 then redis.call('ZADD', plan.due, unpack(plan.new_due)) end
  if #plan.held > 0 then redis.call('ZADD', plan.extra, unpack(plan.held)) end
  if #plan.done > 0 then redis.call('ZADD', plan.completed, unpack(plan.done)) end
  if #plan.told > 0 then redis.call('HSET', plan.last, unpack(plan.told)) end
  if #plan.not_due > 0 then redis.call('ZREM', plan.due, unpack(plan.not_due)) end
  if #plan.unparked > 0 then
    redis.call('ZREM', plan.extra, unpack(plan.unparked))
    redis.call('HDEL', plan.parked, unpack(plan.unparked))
  end
  for _, dead in ipairs(plan.dead) do
    redis.call('XADD', plan.dead_letters, 'MAXLEN', '~', MAX_DEAD_LETTERS, '*',
      'kind', dead[1], 'id', dead[2], 'due', dead[3], 'reason', dead[4], 'data', dead[5])
  end
  if plan.is_cut then more = 1 end
end

-- Totals and lateness of the whole call are kept with its first shard: who reads them adds up all shards.
local reply, increments, dispatched = { now, sent, more, next_due, misfired, refused }, {}, 0
for lateness, by in pairs(latenesses) do
  dispatched = dispatched + by
  append(reply, lateness, by)
  append(increments, 'INCRBY', 'u32')
  append(increments, '#' .. lateness_bucket(lateness), by)
end
if dispatched > 0 then
  count('dispatched', dispatched)
  redis.call('BITFIELD', plans[1].lateness, unpack(increments))
end
for name, by in pairs(counted) do redis.call('HINCRBY', plans[1].counts, name, by) end
return reply
