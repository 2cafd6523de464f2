-- open-namespace: create the namespace's record where there is none, and read it.
-- KEYS[1] meta            hash    namespace record
-- KEYS[2] tombstone       string  epoch of the namespace that was deleted here last
-- KEYS[3] restoring       string  `<until ms>:<node id>` of who fills the absent namespace
-- ARGV[1] epoch           text    for a new namespace: unique
-- ARGV[2] may_create      int     1 creates, 0 only reads
-- ARGV[3] node            text    who creates, if it has taken the right to (take-absent); else ''
-- ARGV[4..] field, value  text    settings of a new namespace
-- Returns                 [field, value, ...] of meta; empty when there is none and may_create is 0, or another fills it
-- Atomic                  of several first nodes one creates, the others read what it wrote
-- Cost                    4 commands
--- @include "redis-now"
local meta, tombstone, restoring = KEYS[1], KEYS[2], KEYS[3]
local epoch, may_create, node = ARGV[1], ARGV[2] == '1', ARGV[3]

if may_create and redis.call('EXISTS', meta) == 0 then
  local holder = string.match(redis.call('GET', restoring) or '', '^%d+:(.*)$')
  if not holder or holder == node then
    local now = redis_now()
    redis.call('HSET', meta, 'epoch', epoch, 'created_at', string.format('%.0f', now), unpack(ARGV, 4))
    redis.call('DEL', tombstone, restoring)
  end
end
return redis.call('HGETALL', meta)
