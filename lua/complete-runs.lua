-- complete-runs: end runs in flight of one shard whose results were published, or that can no longer be running.
-- KEYS[1] meta            hash    namespace record
-- KEYS[2] due_key         zset    of the shard; its other keys are named by the same prefix (lua/keys.ts)
-- KEYS[3] unacked         hash    delivery tag -> message that a consumer holds
-- ARGV[1] epoch           text    of the namespace, as the caller knows it
-- ARGV[2] wake_channel    text    told when something became due within a second from now
-- ARGV[3] shard           int
-- ARGV[4] limit           int     0..500 runs whose deadline has passed are looked at; 0: none
-- ARGV[5..] runs          text    in threes: task id; success or failure; '' or a loop's wish: ms until its next run, stop
-- Returns                 [runs ended by their results, runs given up as lost]
-- Errors                  NAMESPACE_GONE
-- Atomic                  a run ends once, and what follows it is due from then on
-- Cost                    O(runs), about ten commands each
--- @include "redis-now"
--- @include "shard-keys"
--- @include "times"
--- @include "next-run"
--- @include "record-change"
--- @include "complete-run"
local meta, due_key, unacked = KEYS[1], KEYS[2], KEYS[3]
local epoch, wake_channel, shard, limit = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local LOOK_AGAIN_MS, MAX_WORKERS = 60000, 1000

local record = redis.call('HMGET', meta, 'epoch', 'journal')
if record[1] ~= epoch then return redis.error_reply('NAMESPACE_GONE') end

local key = shard_keys(due_key)
local now = redis_now()
-- Redis refuses a script that grows memory only at its first write: runs must be able to end when it is full.
redis.call('ZREM', key.deadlines, '')
local ended, lost, earliest = 0, 0, math.huge

-- The runs that these results are of, and those whose deadline has passed.
local results, ids, tasks, strays = {}, {}, {}, {}
for i = 5, #ARGV, 3 do tasks[#tasks + 1] = ARGV[i] end
local schedules = #tasks > 0 and redis.call('HMGET', key.flights, unpack(tasks)) or {}
for i, task_id in ipairs(tasks) do
  local at = 5 + 3 * (i - 1)
  if schedules[i] then
    results[#results + 1] = { id = schedules[i], task_id = task_id, outcome = ARGV[at + 1], wish = ARGV[at + 2] }
    ids[#ids + 1] = schedules[i]
  end
end
local overdue = limit > 0 and redis.call('ZRANGEBYSCORE', key.deadlines, '-inf', now, 'LIMIT', 0, limit) or {}
for _, id in ipairs(overdue) do ids[#ids + 1] = id end
local endings = open_endings(key, ids)

local function complete(id, outcome, wish)
  local due = complete_run(endings, id, now, outcome, wish)
  if due then earliest = math.min(earliest, due) end
end

for _, result in ipairs(results) do
  local flight = endings.flights[result.id]
  if flight and flight.task_id == result.task_id then
    complete(result.id, result.outcome, result.wish ~= '' and result.wish or nil)
    ended = ended + 1
  else
    strays[#strays + 1] = result.task_id
  end
end
if #strays > 0 then redis.call('HDEL', key.flights, unpack(strays)) end

local function is_reserved(tag)
  local namespace = string.match(due_key, '^(.*):{%d+}:due$')
  for _, worker in ipairs(redis.call('ZRANGE', namespace .. ':workers', 0, MAX_WORKERS - 1)) do
    if redis.call('SISMEMBER', namespace .. ':worker:' .. worker .. ':reserved', tag) == 1 then return true end
  end
  return false
end

-- A message whose run may only be a bundled worker's is in its queue, held, or parked: else it was purged. Any other has
-- expired, also one that a dead Celery worker left in unacked; only a bundled worker may still run it, which knows no time limit.
local function may_still_run(flight)
  local is_ours = redis.call('HEXISTS', key.flights, flight.task_id) == 0
  local is_unacked = redis.call('HEXISTS', unacked, flight.tag) == 1
  if not is_ours then return is_unacked and is_reserved(flight.tag) end
  local length = redis.pcall('LLEN', flight.list)
  return is_unacked or redis.call('HEXISTS', key.parked, flight.task_id) == 1 or type(length) ~= 'number' or length > 0
end

for _, id in ipairs(overdue) do
  local flight = endings.flights[id]
  if not flight then
    redis.call('ZREM', key.deadlines, id)
  elseif may_still_run(flight) then
    redis.call('ZADD', key.deadlines, now + LOOK_AGAIN_MS, id)
  else
    complete(id, 'lost', nil)
    lost = lost + 1
  end
end
write_endings(endings)
if lost > 0 then redis.call('HINCRBY', key.counts, 'lost', lost) end
if record[2] == '1' then
  local changes = {}
  for _, id in ipairs(endings.ended) do changes[#changes + 1], changes[#changes + 2] = 'state', state_of(key, id) end
  record_changes(key, epoch, changes)
end
if earliest < now + 1000 then redis.call('PUBLISH', wake_channel, shard .. ':' .. string.format('%.0f', earliest)) end
return { ended, lost }
