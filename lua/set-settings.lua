-- set-settings: change settings of a namespace that exists.
-- KEYS[1] meta            hash    namespace record
-- ARGV[1] epoch           text    of the namespace, as the caller knows it
-- ARGV[2..] field, value  text
-- Returns                 1
-- Errors                  NAMESPACE_GONE
-- Cost                    2 commands
local meta, epoch = KEYS[1], ARGV[1]

if redis.call('HGET', meta, 'epoch') ~= epoch then return redis.error_reply('NAMESPACE_GONE') end
redis.call('HSET', meta, unpack(ARGV, 2))
return 1
