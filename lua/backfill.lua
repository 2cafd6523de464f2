-- backfill: run a schedule for due times that the caller names.
-- KEYS[1] meta            hash    namespace record
-- KEYS[2] due_key         zset    of the shard; its other keys are named by the same prefix (lua/keys.ts)
-- KEYS[3] request         string  what the request was told, kept 10 minutes
-- ARGV[1] epoch           text    of the namespace, as the caller knows it
-- ARGV[2] id              text
-- ARGV[3] wake_channel    text    told that something is due
-- ARGV[4] shard           int
-- ARGV[5..] dues          int     1..10,000 due times, ms since epoch, oldest first
-- Returns                 runs queued; -1 when there is no such schedule, -2 when its backlog is full
-- Errors                  NAMESPACE_GONE
-- Atomic                  all of them are queued, or none
-- Cost                    O(dues), about 0.5 us each
--- @include "redis-now"
--- @include "shard-keys"
local meta, due_key, request = KEYS[1], KEYS[2], KEYS[3]
local epoch, id, wake_channel, shard = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local MAX_BACKLOG, BATCH = 10000, 1000

if redis.call('HGET', meta, 'epoch') ~= epoch then return redis.error_reply('NAMESPACE_GONE') end
local answered = redis.call('GET', request)
if answered then return tonumber(answered) end

local key = shard_keys(due_key)
local backlog = key.prefix .. 'backlog:' .. id
if redis.call('HEXISTS', key.definitions, id) == 0 then return -1 end
local total = #ARGV - 4
if redis.call('LLEN', backlog) + total > MAX_BACKLOG then return -2 end

local now = redis_now()
local run = redis.call('HINCRBY', key.counts, 'runs', total) - total
local items = {}
for i = 5, #ARGV do
  run = run + 1
  items[#items + 1] = string.format('b%d:%s', run, ARGV[i])
  if #items == BATCH or i == #ARGV then
    redis.call('RPUSH', backlog, unpack(items))
    items = {}
  end
end
redis.call('ZADD', key.extra, now, '\31' .. id)
redis.call('SET', request, total, 'PX', 600000)
redis.call('PUBLISH', wake_channel, shard .. ':' .. string.format('%.0f', now))
return total
