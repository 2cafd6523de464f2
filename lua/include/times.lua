-- What Node computed ahead of a calendar or an exclusion (lua/times.ts): numbers of 15 digits, the first of them says
-- until when all is known. Fixed width, so that they compare as texts and are found by bisection.
local WIDTH, SERIES_END = 15, '999999999999999'

local known_times = {}
local function times_of(key, number)
  local name = key.times .. number
  if known_times[name] == nil then known_times[name] = redis.call('HGET', key.times, number) or false end
  -- Without any, all is unknown.
  return known_times[name] or string.rep('0', WIDTH)
end

local function time_at(times, position)
  return string.sub(times, position * WIDTH + 1, (position + 1) * WIDTH)
end

-- The first position from `first` on, in steps, that holds a later time than `at`; one behind the last when none does.
local function position_after(times, at, first, step)
  local text = string.format('%015.0f', math.max(at, 0))
  local low, high = 0, math.floor((#times / WIDTH - 1 - first) / step) + 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    if time_at(times, first + middle * step) > text then high = middle else low = middle + 1 end
  end
  return first + low * step
end

-- A calendar's first occurrence later than `at`, ms; nil when there is none, false when it is not known yet. Many schedules
-- in a row ask the same.
local asked, answers = {}, {} -- by times
local function occurrence_after(times, at)
  if asked[times] == at then return answers[times] end
  local found = time_at(times, position_after(times, at, 1, 1))
  asked[times], answers[times] = at, nil
  if found ~= '' then
    answers[times] = tonumber(found)
  elseif time_at(times, 0) ~= SERIES_END then
    answers[times] = false
  end
  return answers[times]
end

-- A calendar's last occurrence that is not later than `at`, ms; nil when none is known.
local function occurrence_until(times, at)
  local position = position_after(times, at, 1, 1) - 1
  return position > 0 and tonumber(time_at(times, position)) or nil
end

-- The end of the excluded window that `at` lies in, ms; nil when it lies in none, false when that is not known yet.
local function excluded_until(times, at)
  local position = position_after(times, at, 2, 2)
  local window_end = time_at(times, position)
  if window_end == '' then
    if at > tonumber(time_at(times, 0)) then return false end
    return nil
  end
  if tonumber(time_at(times, position - 1)) <= at then return tonumber(window_end) end
  return nil
end
