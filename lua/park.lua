-- park: move messages whose eta lies ahead from unacked into their shards; beat nodes put them back when due.
-- KEYS[1] meta         hash    the namespace's record
-- KEYS[2] reserved     set     delivery tags that the worker holds
-- KEYS[3] waiting      set     those of them whose tasks have not started
-- KEYS[4] unacked      hash    delivery tag -> [envelope, exchange, routing key]
-- KEYS[5] index        zset    delivery tag -> delivered at, s since epoch
-- KEYS[6...] shards    the due key of each shard in which something is to be parked
-- ARGV[1] shards       int     how many shards the caller believes the namespace has
-- ARGV[2] wake         text    channel on which beat nodes are told of something that is due sooner
-- ARGV[3...] entries   text    in sixes: tag; task id (lua/parked.ts); eta, ms since epoch; list to put it back into;
--                              shard; number of that shard's key (from 1)
-- Returns              [now_ms, position of an entry that the caller held no longer (from 1), ...]
-- Errors               NAMESPACE_GONE when there is no such namespace, or one of another number of shards: nothing is changed
-- Atomic               a message is in unacked or parked, never both, never neither; none is put in the place of another
-- Cost                 O(entries), about 20 us each
--- @include "redis-now"
--- @include "shard-keys"
--- @include "parked"
--- @include "release"
local meta, reserved, waiting, unacked, index = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local shards, wake = ARGV[1], ARGV[2]
local first_shard, first_entry = 6, 3

if redis.call('HGET', meta, 'shards') ~= shards then
  return redis.error_reply('NAMESPACE_GONE')
end
redis.call('SCARD', reserved)
redis.call('SCARD', waiting)
redis.call('HLEN', unacked)
redis.call('ZCARD', index)
local keys, heads = {}, {}
for position = first_shard, #KEYS do
  local key = shard_keys(KEYS[position])
  redis.call('HLEN', key.parked)
  keys[position] = key
  heads[position] = tonumber(redis.call('ZRANGE', key.extra, 0, 0, 'WITHSCORES')[2])
end

local now_ms = redis_now()
local reply = { now_ms }
local sooner = {}
for position = first_entry, #ARGV, 6 do
  local tag, id, eta_ms, list = ARGV[position], ARGV[position + 1], tonumber(ARGV[position + 2]), ARGV[position + 3]
  local shard, at = ARGV[position + 4], first_shard + tonumber(ARGV[position + 5]) - 1
  local value = redis.call('SISMEMBER', reserved, tag) == 1 and redis.call('HGET', unacked, tag)
  local envelope = value and string.match(value, '^%[(.*), "[^"]*", "[^"]*"%]$')
  if not envelope then
    reply[#reply + 1] = (position - first_entry) / 6 + 1
  else
    release(unacked, index, reserved, waiting, tag)
    put_parked(keys[at].extra, keys[at].parked, id, tag, eta_ms, list, envelope)
    if not heads[at] or eta_ms < heads[at] then
      heads[at] = eta_ms
      sooner[shard] = eta_ms
    end
  end
end
for shard, eta_ms in pairs(sooner) do redis.call('PUBLISH', wake, shard .. ':' .. string.format('%d', eta_ms)) end
return reply
