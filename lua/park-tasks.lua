-- park-tasks: park the delayed tasks of a request in their shard; beat nodes push them to their queues when due.
-- KEYS[1] meta        hash    the namespace's record
-- KEYS[2] due         zset    names the shard
-- KEYS[3] request     string  a bit for each entry of the request that was taken, kept 10 minutes
-- ARGV[1] epoch       text    of the namespace, as the caller knows it
-- ARGV[2] wake        text    channel on which beat nodes are told of something that is due sooner
-- ARGV[3] shard       int
-- ARGV[4...] entries  text    in sixes: position in the request; task id (lua/parked.ts); delivery tag; eta, ms since epoch;
--                             list; envelope
-- Returns             how many were parked now; the others were by an earlier call
-- Errors              NAMESPACE_GONE
-- Atomic              an entry is parked exactly when the request remembers it
-- Cost                O(entries), about 20 us each; at most 500
--- @include "shard-keys"
--- @include "parked"
local meta, due, request = KEYS[1], KEYS[2], KEYS[3]
local epoch, wake, shard = ARGV[1], ARGV[2], ARGV[3]
local first_entry, KEPT_MS = 4, 600000

if redis.call('HGET', meta, 'epoch') ~= epoch then return redis.error_reply('NAMESPACE_GONE') end

local key = shard_keys(due)
redis.call('HLEN', key.parked)
local head = tonumber(redis.call('ZRANGE', key.extra, 0, 0, 'WITHSCORES')[2]) or math.huge
local parked, sooner = 0, nil
for at = first_entry, #ARGV, 6 do
  -- The first write is one that Redis refuses when memory is full.
  if redis.call('SETBIT', request, ARGV[at], 1) == 0 then
    local eta_ms = tonumber(ARGV[at + 3])
    put_parked(key.extra, key.parked, ARGV[at + 1], ARGV[at + 2], eta_ms, ARGV[at + 4], ARGV[at + 5])
    parked = parked + 1
    if eta_ms < head then
      head = eta_ms
      sooner = eta_ms
    end
  end
end
if parked > 0 then redis.call('PEXPIRE', request, KEPT_MS) end
if sooner then redis.call('PUBLISH', wake, shard .. ':' .. string.format('%d', sooner)) end
return parked
