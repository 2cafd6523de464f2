-- delete-schedules: remove schedules of one shard, with everything that is only theirs. What is already in a queue stays there.
-- KEYS[1] meta            hash    namespace record
-- KEYS[2] due_key         zset    of the shard; its other keys are named by the same prefix (lua/keys.ts)
-- ARGV[1] epoch           text    of the namespace, as the caller knows it
-- ARGV[2..] id            text    at most 500
-- Returns                 [1 or 0 per id]: whether it existed
-- Errors                  NAMESPACE_GONE
-- Atomic                  a schedule goes with its due times and its uses of shared texts
-- Cost                    O(ids)
--- @include "shard-keys"
--- @include "shared-texts"
--- @include "forget-schedules"
--- @include "record-change"
local meta, due_key, epoch = KEYS[1], KEYS[2], ARGV[1]

local record = redis.call('HMGET', meta, 'epoch', 'journal')
if record[1] ~= epoch then return redis.error_reply('NAMESPACE_GONE') end

local key = shard_keys(due_key)
local ids, seen = {}, {}
for i = 2, #ARGV do
  if not seen[ARGV[i]] then ids[#ids + 1] = ARGV[i] end
  seen[ARGV[i]] = true
end
local stored = redis.call('HMGET', key.definitions, unpack(ids))
forget_schedules(key, ids, stored)
local existed, changes = {}, {}
for i, id in ipairs(ids) do
  seen[id] = stored[i] and 1 or 0
  if stored[i] and record[2] == '1' then
    changes[#changes + 1] = 'delete'
    changes[#changes + 1] = id
  end
end
record_changes(key, epoch, changes)
for i = 2, #ARGV do
  existed[i - 1] = seen[ARGV[i]]
  seen[ARGV[i]] = 0
end
return existed
