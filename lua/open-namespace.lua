-- open-namespace: create the namespace's record where there is none, and read it.
-- KEYS[1] meta            hash    namespace record
-- KEYS[2] tombstone       string  epoch of the namespace that was deleted here last
-- ARGV[1] epoch           text    for a new namespace: unique
-- ARGV[2] may_create      int     1 creates, 0 only reads
-- ARGV[3..] field, value  text    settings of a new namespace
-- Returns                 [field, value, ...] of meta; empty when there is none and may_create is 0
-- Atomic                  of several first nodes one creates, the others read what it wrote
-- Cost                    3 commands
--- @include "redis-now"
local meta, tombstone = KEYS[1], KEYS[2]
local epoch, may_create = ARGV[1], ARGV[2] == '1'

if may_create and redis.call('EXISTS', meta) == 0 then
  local now = redis_now()
  redis.call('HSET', meta, 'epoch', epoch, 'created_at', string.format('%.0f', now), unpack(ARGV, 3))
  redis.call('DEL', tombstone)
end
return redis.call('HGETALL', meta)
