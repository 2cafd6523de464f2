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

-- Ends the run in flight of a schedule. `outcome` is success, failure or lost; `wish` how long a loop is to wait, ms, `stop` to
-- end it, or nil. Returns when the schedule is due next, ms; nil when that is not for this script to say.
local function complete_run(key, id, flight, now, outcome, wish)
  redis.call('HDEL', key.journal, id)
  redis.call('HDEL', key.flights, flight.task_id)
  redis.call('ZREM', key.deadlines, id)
  local definition = redis.call('HGET', key.definitions, id)
  local text, finish = string.match(definition or '', '^[^\31]*\31[^\31]*\31([^\31]*)\31([^\31]*)\31')
  local timing = text and timing_of(text)
  if not timing then return nil end
  if flight.buffered ~= '' and not timing.is_paused and timing.kind ~= 'a' then
    redis.call('LPUSH', key.prefix .. 'backlog:' .. id, 'o:' .. flight.buffered)
    redis.call('ZADD', key.extra, now, '\31' .. id)
    return now
  end
  -- An extra run that waited for this one need not wait any longer.
  local is_waited_for = redis.call('ZSCORE', key.extra, '\31' .. id)
  if is_waited_for then redis.call('ZADD', key.extra, now, '\31' .. id) end
  local soonest = is_waited_for and now or nil
  if timing.kind ~= 'a' then return soonest end
  local delay = delay_of(key, id, timing, outcome, tonumber(wish))
  local held = redis.call('HGET', key.held, id)
  if wish == 'stop' then redis.call('HSET', key.held, id, '-') end
  if wish == 'stop' or held == '-' then return soonest end
  -- A run that was triggered while its loop was paused moves no next run. No two runs of a loop are due at one time: their
  -- ids follow from it.
  local wanted = tonumber(held) or math.max(now + delay, tonumber(flight.due) + 1)
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
  if due then redis.call('ZADD', key.due, due, id) end
  if due == false then redis.call('ZADD', key.claims, after, id) end
  return soonest or due or nil
end
