-- delete-schedules: remove schedules of one shard, with everything that is only theirs. What is already in a queue stays there.
-- KEYS[1] meta            hash    namespace record
-- KEYS[2] due_set         zset    schedule id -> next due time and last lateness
-- KEYS[3] definitions     hash    schedule id -> definition
-- KEYS[4] templates       hash    number -> template
-- KEYS[5] template_ids    hash    SHA1 of a template -> its number
-- KEYS[6] template_uses   hash    number -> definitions that use it
-- KEYS[7] last            hash    schedule id -> due:lateness of the last run
-- KEYS[8] completed       zset    finished one-shots
-- ARGV[1] epoch           text    of the namespace, as the caller knows it
-- ARGV[2..] id            text    at most 500
-- Returns                 [1 or 0 per id]: whether it existed
-- Errors                  NAMESPACE_GONE
-- Atomic                  a schedule goes with its due time and its template use
-- Cost                    O(ids), 7 commands
--- @include "drop-template"
local meta, due_set, definitions, templates = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local template_ids, template_uses, last, completed = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local epoch = ARGV[1]

if redis.call('HGET', meta, 'epoch') ~= epoch then return redis.error_reply('NAMESPACE_GONE') end

local ids = { unpack(ARGV, 2) }
local stored = redis.call('HMGET', definitions, unpack(ids))
local existed, uses, seen = {}, {}, {}
for i, id in ipairs(ids) do
  existed[i] = (stored[i] and not seen[id]) and 1 or 0
  seen[id] = true
  if existed[i] == 1 then
    local number = string.match(stored[i], '^([^\31]*)')
    uses[number] = (uses[number] or 0) + 1
  end
end
redis.call('HDEL', definitions, unpack(ids))
redis.call('ZREM', due_set, unpack(ids))
redis.call('ZREM', completed, unpack(ids))
redis.call('HDEL', last, unpack(ids))
for number, by in pairs(uses) do
  if redis.call('HINCRBY', template_uses, number, -by) <= 0 then
    drop_template(templates, template_ids, template_uses, number)
  end
end
return existed
