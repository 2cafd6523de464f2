-- A run in flight (lua/keys.ts) ends, and what waited for that goes on: a loop's next run, the run that overlap held back,
-- extra runs. Needs redis-now, shard-keys, times, next-run, record-change.

local function journal_fields(flight)
  local task_id, due, run, attempt, tag, list, buffered, dispatched =
    string.match(flight, '^([^\31]*)\31(%d*)\31(%d*)\31(%d*)\31([^\31]*)\31([^\31]*)\31(%d*)\31(%d*)$')
  return { task_id = task_id, due = due, run = run, attempt = tonumber(attempt), tag = tag, list = list, buffered = buffered,
    dispatched = tonumber(dispatched) }
end

-- How long a loop waits for its next run after this outcome, ms.
local function delay_of(key, id, timing, outcome, wish)
  if outcome == 'success' then
    if timing.second ~= '' then redis.call('HDEL', key.failures, id) end
    return wish or timing.first
  end
  local delay, longest = string.match(timing.second, '^(%d+)%-(%d+)$')
  if outcome ~= 'failure' or not delay then return wish or timing.first end
  local failures = redis.call('HINCRBY', key.failures, id, 1)
  return math.min(tonumber(delay) * 2 ^ math.min(failures - 1, 40), tonumber(longest))
end

-- The runs in flight of one shard that end in a call: what they need is read for all of them at once, and written so.
local function open_endings(key, ids)
  local endings = {
    key = key, flights = {}, definitions = {}, held = {}, is_waited_for = {}, ended = {}, tasks = {}, due = {}, claims = {}, extra = {},
  }
  if #ids == 0 then return endings end
  local members = {}
  for i, id in ipairs(ids) do members[i] = '\31' .. id end
  local flights, definitions = redis.call('HMGET', key.journal, unpack(ids)), redis.call('HMGET', key.definitions, unpack(ids))
  local held, waiting = redis.call('HMGET', key.held, unpack(ids)), redis.call('ZMSCORE', key.extra, unpack(members))
  for i, id in ipairs(ids) do
    endings.flights[id] = flights[i] and journal_fields(flights[i]) or nil
    endings.definitions[id], endings.held[id], endings.is_waited_for[id] = definitions[i], held[i], waiting[i]
  end
  return endings
end

local function append_pair(list, one, other)
  local n = #list
  list[n + 1], list[n + 2] = one, other
end

-- Ends the run in flight of a schedule. `outcome` is success, failure or lost; `wish` how long a loop is to wait, ms, `stop` to
-- end it, or nil. Returns when the schedule is due next, ms; nil when that is not for this script to say.
local function complete_run(endings, id, now, outcome, wish)
  local key, flight = endings.key, endings.flights[id]
  endings.flights[id] = nil
  endings.ended[#endings.ended + 1], endings.tasks[#endings.tasks + 1] = id, flight.task_id
  local text, finish = string.match(endings.definitions[id] or '', '^[^\31]*\31[^\31]*\31([^\31]*)\31([^\31]*)\31')
  local timing = text and timing_of(text)
  if not timing then return nil end
  if flight.buffered ~= '' and not timing.is_paused and timing.kind ~= 'a' then
    redis.call('LPUSH', key.prefix .. 'backlog:' .. id, 'o:' .. flight.buffered)
    append_pair(endings.extra, now, '\31' .. id)
    return now
  end
  -- An extra run that waited for this one need not wait any longer.
  local is_waited_for = endings.is_waited_for[id]
  if is_waited_for then append_pair(endings.extra, now, '\31' .. id) end
  local soonest = is_waited_for and now or nil
  if timing.kind ~= 'a' then return soonest end
  local delay, held = delay_of(key, id, timing, outcome, tonumber(wish)), endings.held[id]
  if wish == 'stop' then redis.call('HSET', key.held, id, '-') end
  if wish == 'stop' or held == '-' then return soonest end
  -- A run that was triggered while its loop was paused moves no next run. No two runs of a loop are due at one time: their
  -- ids follow from it.
  local wanted = tonumber(held or nil) or math.max(now + delay, tonumber(flight.due) + 1)
  local is_exhausted = timing.max_runs and tonumber(redis.call('HGET', key.runs, id) or 0) >= timing.max_runs
  if is_exhausted then
    redis.call('HDEL', key.held, id)
    return soonest
  end
  if timing.is_paused then
    redis.call('HSET', key.held, id, string.format('%.0f', wanted))
    return soonest
  end
  if held then redis.call('HDEL', key.held, id) end
  local due, after = next_due(key, id, timing, tonumber(finish), wanted - 1)
  if due then append_pair(endings.due, due, id) end
  if due == false then append_pair(endings.claims, after, id) end
  return soonest or due or nil
end

local function write_endings(endings)
  if #endings.ended == 0 then return end
  local key = endings.key
  redis.call('HDEL', key.journal, unpack(endings.ended))
  redis.call('HDEL', key.flights, unpack(endings.tasks))
  redis.call('ZREM', key.deadlines, unpack(endings.ended))
  if #endings.extra > 0 then redis.call('ZADD', key.extra, unpack(endings.extra)) end
  if #endings.due > 0 then redis.call('ZADD', key.due, unpack(endings.due)) end
  if #endings.claims > 0 then redis.call('ZADD', key.claims, unpack(endings.claims)) end
end
