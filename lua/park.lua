-- park: move messages whose eta lies ahead from unacked into their shards; beat nodes put them back when due.
-- KEYS[1] meta         hash    the namespace's record
-- KEYS[2] reserved     set     delivery tags that the worker holds
-- KEYS[3] unacked      hash    delivery tag -> [envelope, exchange, routing key]
-- KEYS[4] index        zset    delivery tag -> delivered at, s since epoch
-- KEYS[5...] shards    in pairs: extra, zset, tag -> when to try, ms; parked, hash, tag -> <list>\x1f<envelope>
-- ARGV[1] shards       int     how many shards the worker believes the namespace has
-- ARGV[2] wake         text    channel on which beat nodes are told of something that is due sooner
-- ARGV[3...] entries   text    in fives: tag; eta, ms since epoch; list to put it back into; shard; number of its pair (from 1)
-- Returns              [now_ms, position of an entry that the worker held no longer (from 1), ...]
-- Errors               NAMESPACE_GONE when there is no such namespace, or one of another number of shards: nothing is changed
-- Atomic               a message is in unacked or parked, never both, never neither
-- Cost                 O(entries), six commands an entry
--- @include "redis-now"
local meta, reserved, unacked, index = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local shards, wake = ARGV[1], ARGV[2]
local first_shard, first_entry = 5, 3

if redis.call('HGET', meta, 'shards') ~= shards then
  return redis.error_reply('NAMESPACE_GONE')
end
redis.call('SCARD', reserved)
redis.call('HLEN', unacked)
redis.call('ZCARD', index)
local heads = {}
for position = first_shard, #KEYS, 2 do
  redis.call('HLEN', KEYS[position + 1])
  heads[KEYS[position]] = tonumber(redis.call('ZRANGE', KEYS[position], 0, 0, 'WITHSCORES')[2])
end

local now_ms = redis_now()
local reply = { now_ms }
local sooner = {}
for position = first_entry, #ARGV, 5 do
  local tag, eta_ms, list, shard = ARGV[position], tonumber(ARGV[position + 1]), ARGV[position + 2], ARGV[position + 3]
  local pair = first_shard + 2 * (tonumber(ARGV[position + 4]) - 1)
  local extra, parked = KEYS[pair], KEYS[pair + 1]
  local value = redis.call('SISMEMBER', reserved, tag) == 1 and redis.call('HGET', unacked, tag)
  local envelope = value and string.match(value, '^%[(.*), "[^"]*", "[^"]*"%]$')
  if not envelope then
    reply[#reply + 1] = (position - first_entry) / 5 + 1
  else
    redis.call('HDEL', unacked, tag)
    redis.call('SREM', reserved, tag)
    redis.call('ZREM', index, tag)
    redis.call('HSET', parked, tag, list .. '\31' .. envelope)
    redis.call('ZADD', extra, eta_ms, tag)
    if not heads[extra] or eta_ms < heads[extra] then
      heads[extra] = eta_ms
      sooner[shard] = eta_ms
    end
  end
end
for shard, eta_ms in pairs(sooner) do redis.call('PUBLISH', wake, shard .. ':' .. string.format('%d', eta_ms)) end
return reply
