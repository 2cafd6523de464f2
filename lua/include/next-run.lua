-- A timing (lua/definition.ts) by its parts. `plain` timings have no options. Many schedules share one text.
local timings = {}
local function timing_of(text)
  local timing = timings[text]
  if timing then return timing end
  local flag, first, second, start, options = string.match(text, '^([aceoACEO])(%-?%d+):([^:]*):(%d*)(.*)$')
  if not flag or string.lower(flag) == 'e' and not string.find(second, '^[sno]%d*$') then return nil end
  timing = {
    kind = string.lower(flag), is_paused = flag ~= string.lower(flag), first = tonumber(first), second = second,
    start = tonumber(start), plain = options == '',
    max_runs = tonumber((string.match(options, ';r(%d+)'))), jitter = tonumber((string.match(options, ';j(%d+)'))),
    exclusion = string.match(options, ';x(%d+)'),
  }
  timings[text] = timing
  return timing
end

-- Where an interval schedule's grid lies: ms after the epoch.
local function grid_offset(id, timing)
  if timing.second == 's' then
    return math.floor(tonumber(string.sub(redis.sha1hex(id), 1, 8), 16) / 4294967296 * timing.first)
  end
  return tonumber(string.sub(timing.second, 2)) % timing.first
end

-- The first nominal time later than `at` of a grid or calendar, ms; nil none, false not known yet.
local function nominal_after(key, id, timing, at)
  if timing.kind == 'c' then return occurrence_after(times_of(key, timing.first), at) end
  local offset = grid_offset(id, timing)
  return offset + math.floor((at - offset) / timing.first + 1) * timing.first
end

local function nominal_until(key, id, timing, at)
  if timing.kind == 'c' then return occurrence_until(times_of(key, timing.first), at) end
  local offset = grid_offset(id, timing)
  return offset + math.floor((at - offset) / timing.first) * timing.first
end

-- A nominal time with its jitter, which never reaches the next one; false while that is not known.
local function with_jitter(key, id, timing, nominal)
  local following = nominal_after(key, id, timing, nominal)
  if following == false then return false end
  local hash = redis.sha1hex(string.format('%s:%.0f', id, nominal))
  local width = following and math.min(timing.jitter, following - nominal) or timing.jitter
  return nominal + math.floor(tonumber(string.sub(hash, 1, 8), 16) / 4294967296 * width)
end

local function due_after(key, id, timing, at)
  -- A loop has no grid: any time will do.
  if timing.kind == 'a' then return at + 1 end
  if timing.kind == 'o' then return timing.first > at and timing.first or nil end
  if not timing.jitter then return nominal_after(key, id, timing, at) end
  local nominal = nominal_until(key, id, timing, at)
  local due = nominal and with_jitter(key, id, timing, nominal)
  if due == false or due and due > at then return due end
  nominal = nominal_after(key, id, timing, at)
  return nominal and with_jitter(key, id, timing, nominal)
end

-- The first due time of a schedule strictly later than `at`, ms; nil when there is none before `finish`, false when it is not
-- known yet, because a calendar or exclusion must be computed further first, and then strictly after when to look again.
local function next_due(key, id, timing, finish, at)
  if timing.start then at = math.max(at, timing.start - 1) end
  while true do
    local due = due_after(key, id, timing, at)
    if due == nil or due and finish and due >= finish then return nil end
    if due == false then return false, at end
    local window_end = timing.exclusion and excluded_until(times_of(key, timing.exclusion), due)
    if not timing.exclusion or window_end == nil then return due end
    if not window_end then return false, due - 1 end
    at = window_end - 1
  end
end

-- What a score says of a schedule's last run (lua/score.ts): its due time and how late it was dispatched, both ms.
-- nil, nil when it has not run. The hash `last` tells where the fraction does not.
local function last_run(key, id, timing, score)
  local due = math.floor(score)
  local code = math.floor((score - due) * 2048 + 0.5)
  if timing.kind == 'e' and timing.plain and code > 0 and code < 2047 then return due - timing.first, code - 1 end
  local told = redis.call('HGET', key.last, id)
  if not told then return nil, nil end
  local told_due, lateness = string.match(told, '^(%d+):(%d+)$')
  return tonumber(told_due), tonumber(lateness)
end

-- When an enabled schedule that waits nowhere yet is due first, later than `at`: as `next_due`; for a loop at once, at its
-- start, or when it was due while paused (`held`), nil for one that was stopped.
local function first_due(key, id, timing, finish, at, now, held)
  if timing.kind ~= 'a' then return next_due(key, id, timing, finish, at) end
  if held == '-' then return nil end
  return next_due(key, id, timing, finish, math.max(now, tonumber(held) or 0) - 1)
end
