-- delete-namespace: the step that decides a deletion: the record goes, the tombstone stays.
-- KEYS[1] meta            hash    namespace record
-- KEYS[2] tombstone       string  epoch of the namespace that was deleted here last
-- ARGV[1] epoch           text    of the namespace, as the caller knows it
-- ARGV[2] wake_channel    text    told `members`, so that nodes note the deletion in their journals at once
-- Returns                 1, also when just this namespace was deleted before
-- Errors                  NAMESPACE_GONE
-- Atomic                  from here on no script of any process writes to the namespace
-- Cost                    4 commands
local meta, tombstone = KEYS[1], KEYS[2]
local epoch, wake_channel = ARGV[1], ARGV[2]

local stored = redis.call('HGET', meta, 'epoch')
if not stored and redis.call('GET', tombstone) == epoch then return 1 end
if stored ~= epoch then return redis.error_reply('NAMESPACE_GONE') end
-- Removing comes first: a Redis that is out of memory allows it, and with it the rest.
redis.call('DEL', meta)
redis.call('SET', tombstone, epoch)
redis.call('PUBLISH', wake_channel, 'members')
return 1
