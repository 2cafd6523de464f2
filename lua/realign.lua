-- realign: after Redis's clock stepped back, bring schedules that would now wait past their next grid point back to the first
-- one after both now and their last dispatched due time.
-- KEYS[1] meta            hash    namespace record
-- KEYS[2] due_key         zset    of the shard; its other keys are named by the same prefix (lua/keys.ts)
-- ARGV[1] epoch           text    of the namespace, as the caller knows it
-- ARGV[2] cursor          text    of ZSCAN; 0 to begin
-- ARGV[3] count           int     1..500, a hint: entries looked at in this call
-- Returns                 [next cursor ("0" at the end), schedules moved]
-- Errors                  NAMESPACE_GONE
-- Atomic                  per schedule; one that was dispatched meanwhile is judged by its new due time
-- Cost                    O(count)
--- @include "redis-now"
--- @include "shard-keys"
--- @include "times"
--- @include "next-run"
local meta, due_key = KEYS[1], KEYS[2]
local epoch, cursor, count = ARGV[1], ARGV[2], ARGV[3]

if redis.call('HGET', meta, 'epoch') ~= epoch then return redis.error_reply('NAMESPACE_GONE') end

local key = shard_keys(due_key)
local now = redis_now()
local page = redis.call('ZSCAN', key.due, cursor, 'COUNT', count)
local found, moved = page[2], 0
for i = 1, #found, 2 do
  local id, score = found[i], tonumber(found[i + 1])
  local definition = score > now and redis.call('HGET', key.definitions, id)
  local text, finish = nil, nil
  if definition then text, finish = string.match(definition, '^[^\31]*\31[^\31]*\31([^\31]*)\31([^\31]*)') end
  local timing = text and timing_of(text)
  if timing and (timing.kind == 'e' or timing.kind == 'c') then
    local last_due, lateness = last_run(key, id, timing, score)
    local due = next_due(key, id, timing, tonumber(finish), math.max(now, last_due or 0))
    if due and due < math.floor(score) then
      redis.call('ZADD', key.due, due, id)
      if last_due then redis.call('HSET', key.last, id, string.format('%.0f:%.0f', last_due, lateness)) end
      moved = moved + 1
    end
  end
end
return { page[1], moved }
