-- sweep-shard: the owner's housekeeping, once a second: move the lateness histogram to the history, remove one-shots that
-- completed long enough ago, and what the list of occurrences holds for too long.
-- KEYS[1] meta            hash    namespace record
-- KEYS[2] due_key         zset    of the shard; its other keys are named by the same prefix (lua/keys.ts)
-- ARGV[1] epoch           text    of the namespace, as the caller knows it
-- ARGV[2] keep_completed  int     how long a completed one-shot is kept, ms
-- ARGV[3] keep_history    int     entries of the history
-- ARGV[4] limit           int     1..500 one-shots removed in this call
-- ARGV[5] keep_runs       int     how long occurrences are kept, ms
-- Returns                 one-shots removed; call again at once when it equals the limit
-- Errors                  NAMESPACE_GONE
-- Cost                    3 commands when there is nothing to do
--- @include "redis-now"
--- @include "shard-keys"
--- @include "shared-texts"
--- @include "forget-schedules"
--- @include "record-change"
local meta, due_key, epoch = KEYS[1], KEYS[2], ARGV[1]
local keep_completed, keep_history, limit, keep_runs = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

local record = redis.call('HMGET', meta, 'epoch', 'journal')
if record[1] ~= epoch then return redis.error_reply('NAMESPACE_GONE') end

local key = shard_keys(due_key)
local now = redis_now()
local histogram = redis.call('GET', key.lateness)
local old = redis.call('ZRANGEBYSCORE', key.completed, '-inf', now - keep_completed, 'LIMIT', 0, limit)
local stored = #old > 0 and redis.call('HMGET', key.definitions, unpack(old))
local scores = #old > 0 and redis.call('ZMSCORE', key.due, unpack(old))

-- Removing comes first: Redis allows it when memory is full, and with it the rest of the script, which frees some.
if histogram then
  redis.call('DEL', key.lateness)
  redis.call('XADD', key.history, 'MAXLEN', keep_history, '*', 'at', string.format('%.0f', now), 'lateness', histogram)
end
redis.call('XTRIM', key.occurrences, 'MINID', '~', string.format('%.0f', now - keep_runs))
if #old > 0 then
  redis.call('ZREM', key.completed, unpack(old))
  local ids, definitions, changes = {}, {}, {}
  for i, id in ipairs(old) do
    -- One that was scheduled anew meanwhile is only taken off the list.
    if stored[i] and not scores[i] then
      ids[#ids + 1], definitions[#definitions + 1] = id, stored[i]
      changes[#changes + 1], changes[#changes + 2] = 'delete', id
    end
  end
  if #ids > 0 then forget_schedules(key, ids, definitions) end
  if record[2] == '1' then record_changes(key, epoch, changes) end
end
return #old
