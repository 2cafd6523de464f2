-- What a score says of a schedule's last run (lua/score.ts): its due time and how late it was dispatched, both ms.
-- nil, nil when it has not run. `last` is the hash that tells where the fraction does not.
local function last_run(id, timing, score, last)
  local due = math.floor(score)
  local code = math.floor((score - due) * 2048 + 0.5)
  if code > 0 and code < 2047 then
    local interval = tonumber(string.match(timing, '^[eE](%d+)')) or 0
    return due - interval, code - 1
  end
  local told = redis.call('HGET', last, id)
  if not told then return nil, nil end
  local told_due, lateness = string.match(told, '^(%d+):(%d+)$')
  return tonumber(told_due), tonumber(lateness)
end

-- The first due time of a timing, ms, strictly later than `floor`; nil when there is none before `finish`.
-- `timing` is resolved: its grid offset or instant is known.
local function first_due(id, timing, finish, floor)
  local kind, first, second, start = string.match(timing, '^(%a)(%d*):([^:]*):(%d*)$')
  start = tonumber(start) or 0
  local due
  if kind == 'o' or kind == 'O' then
    due = tonumber(first)
    if due < start or due <= floor then return nil end
  else
    local interval = tonumber(first)
    local offset
    if second == 's' then
      offset = math.floor(tonumber(string.sub(redis.sha1hex(id), 1, 8), 16) / 4294967296 * interval)
    else
      offset = tonumber(string.sub(second, 2)) % interval
    end
    local after = math.max(floor + 1, start)
    due = offset + math.ceil((after - offset) / interval) * interval
  end
  if finish and due >= finish then return nil end
  return due
end
