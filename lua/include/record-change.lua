-- The change stream of a shard, which nodes with a journal on disk follow (scheduler/journal/). An entry holds pairs, after
-- the epoch: `template` number\31text; `put` id\30definition\30state; `state` id\30state; `delete` id; where a state is
-- due\30completed\30runs\30held, each '' when there is none. Its id is `<sequence>-0`.
local MAX_CHANGES = 1000

-- How a schedule stands, `id` first.
local function state_of(key, id)
  return table.concat({
    id, redis.call('ZSCORE', key.due, id) or '', redis.call('ZSCORE', key.completed, id) or '',
    redis.call('HGET', key.runs, id) or '', redis.call('HGET', key.held, id) or '',
  }, '\30')
end

local function record_changes(key, epoch, changes)
  if #changes == 0 then return end
  local sequence = redis.call('HINCRBY', key.counts, 'changes', 1)
  redis.call('XADD', key.changes, 'MAXLEN', '~', MAX_CHANGES, string.format('%.0f-0', sequence), 'epoch', epoch, unpack(changes))
end
