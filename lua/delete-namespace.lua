-- delete-namespace: the step that decides a deletion: the record goes, the tombstone stays.
-- KEYS[1] meta            hash    namespace record
-- KEYS[2] tombstone       string  epoch of the namespace that was deleted here last
-- ARGV[1] epoch           text    of the namespace, as the caller knows it
-- Returns                 1, also when just this namespace was deleted before
-- Errors                  NAMESPACE_GONE
-- Atomic                  from here on no script of any process writes to the namespace
-- Cost                    3 commands
local meta, tombstone, epoch = KEYS[1], KEYS[2], ARGV[1]

local stored = redis.call('HGET', meta, 'epoch')
if not stored and redis.call('GET', tombstone) == epoch then return 1 end
if stored ~= epoch then return redis.error_reply('NAMESPACE_GONE') end
-- Removing comes first: a Redis that is out of memory allows it, and with it the rest.
redis.call('DEL', meta)
redis.call('SET', tombstone, epoch)
return 1
