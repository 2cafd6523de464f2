-- take-absent: take the right to fill a namespace that is not in Redis.
-- KEYS[1] meta            hash    namespace record
-- KEYS[2] restoring       string  `<until ms>:<node id>` of who fills the absent namespace; it outlives its time, so that
--                                 what somebody left half done is known as such
-- ARGV[1] node            text    who asks
-- ARGV[2] lease           int     until when others keep out, ms from now; each step prolongs it
-- Returns                 1, also when the caller had it already; 0 when another has it or the namespace is there
-- Cost                    3 commands
--- @include "redis-now"
local meta, restoring = KEYS[1], KEYS[2]
local node, lease = ARGV[1], tonumber(ARGV[2])

if redis.call('EXISTS', meta) == 1 then return 0 end
local now = redis_now()
local held_until, holder = string.match(redis.call('GET', restoring) or '', '^(%d+):(.*)$')
if holder and holder ~= node and tonumber(held_until) >= now then return 0 end
redis.call('SET', restoring, string.format('%.0f:%s', now + lease, node))
return 1
