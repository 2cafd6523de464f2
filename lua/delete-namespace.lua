-- delete-namespace: the step that decides a deletion: the record goes, the tombstone stays.
-- KEYS[1] meta            hash    namespace record
-- KEYS[2] tombstone       string  epoch of the namespace that was deleted here last
-- ARGV[1] epoch           text    of the namespace, as the caller knows it
-- Returns                 1
-- Errors                  NAMESPACE_GONE
-- Atomic                  from here on no script of any process writes to the namespace
-- Cost                    3 commands
local meta, tombstone, epoch = KEYS[1], KEYS[2], ARGV[1]

if redis.call('HGET', meta, 'epoch') ~= epoch then return redis.error_reply('NAMESPACE_GONE') end
redis.call('SET', tombstone, epoch)
redis.call('DEL', meta)
return 1
