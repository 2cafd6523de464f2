-- Runs in flight that end, or go on as another message, with the message of their present attempt.
-- Needs: shard-keys, times, next-run, record-change, complete-run.

-- A run is sent again by its own task: the same run, as another message.
local function send_again(key, id, flight, message, now_ms)
  local tag, eta_ms, list = string.match(message, '^([^\30]*)\30(%d+)\30(.*)$')
  redis.call('HSET', key.journal, id, table.concat({ flight.task_id, flight.due, flight.run, flight.attempt, tag, list,
    flight.buffered, string.format('%.0f', flight.dispatched) }, '\31'))
  if redis.call('ZSCORE', key.deadlines, id) then
    redis.call('ZINCRBY', key.deadlines, math.max(0, tonumber(eta_ms) - now_ms), id)
  end
end

-- Those of one shard. Nothing is brought back into a namespace that is gone.
local function end_runs_of(prefix, runs, now_ms)
  local namespace, shard = string.match(prefix, '^(.*):{(%d+)}:$')
  local epoch, is_recorded = unpack(redis.call('HMGET', namespace .. ':meta', 'epoch', 'journal'))
  if not epoch then return end
  local key, ids, earliest = shard_keys(prefix .. 'due'), {}, math.huge
  for i, run in ipairs(runs) do ids[i] = run.id end
  local endings = open_endings(key, ids)
  for _, run in ipairs(runs) do
    local flight = endings.flights[run.id]
    if flight and flight.tag == run.tag and run.outcome == 'retry' then
      send_again(key, run.id, flight, run.wish, now_ms)
    elseif flight and flight.tag == run.tag then
      earliest = math.min(earliest, complete_run(endings, run.id, now_ms, run.outcome, run.wish) or earliest)
    end
  end
  write_endings(endings)
  if is_recorded == '1' then
    local changes = {}
    for _, id in ipairs(endings.ended) do changes[#changes + 1], changes[#changes + 2] = 'state', state_of(key, id) end
    record_changes(key, epoch, changes)
  end
  if earliest < now_ms + 1000 then
    redis.call('PUBLISH', namespace .. ':wake', shard .. ':' .. string.format('%.0f', earliest))
  end
end

-- `entries`: tag, and `run`, by \31: prefix of its shard's keys; success, failure or retry; '' or a loop's wish (ms, stop) or the
-- next message (by \30: tag, eta, list); schedule id. An entry whose run has another attempt by now changes nothing.
local function end_runs(entries, now_ms)
  local shards = {} -- prefix of a shard's keys -> the runs of it
  for _, entry in ipairs(entries) do
    local prefix, outcome, wish, id = string.match(entry.run, '^([^\31]*)\31([^\31]*)\31([^\31]*)\31(.*)$')
    shards[prefix] = shards[prefix] or {}
    table.insert(shards[prefix], { id = id, tag = entry.tag, outcome = outcome, wish = wish ~= '' and wish or nil })
  end
  for prefix, runs in pairs(shards) do end_runs_of(prefix, runs, now_ms) end
end
