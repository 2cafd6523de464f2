-- realign: after Redis's clock stepped back, bring interval schedules whose due time lies more than one interval ahead
-- to the first grid point after both now and their last dispatched due time.
-- KEYS[1] meta            hash    namespace record
-- KEYS[2] due_set         zset    schedule id -> next due time and last lateness
-- KEYS[3] definitions     hash    schedule id -> definition
-- KEYS[4] last            hash    schedule id -> due:lateness of the last run
-- ARGV[1] epoch           text    of the namespace, as the caller knows it
-- ARGV[2] cursor          text    of ZSCAN; 0 to begin
-- ARGV[3] count           int     1..500, a hint: entries looked at in this call
-- Returns                 [next cursor ("0" at the end), schedules moved]
-- Errors                  NAMESPACE_GONE
-- Atomic                  per schedule; one that was dispatched meanwhile is judged by its new due time
-- Cost                    O(count)
--- @include "redis-now"
--- @include "next-run"
local meta, due_set, definitions, last = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local epoch, cursor, count = ARGV[1], ARGV[2], ARGV[3]

if redis.call('HGET', meta, 'epoch') ~= epoch then return redis.error_reply('NAMESPACE_GONE') end

local now = redis_now()
local page = redis.call('ZSCAN', due_set, cursor, 'COUNT', count)
local pairs_found, moved = page[2], 0
for i = 1, #pairs_found, 2 do
  local id, score = pairs_found[i], tonumber(pairs_found[i + 1])
  local definition = score > now and redis.call('HGET', definitions, id)
  local timing, finish = nil, nil
  if definition then timing, finish = string.match(definition, '^[^\31]*\31[^\31]*\31(e[^\31]*)\31([^\31]*)') end
  if timing and score > now + tonumber(string.match(timing, '^e(%d+)')) then
    local last_due, lateness = last_run(id, timing, score, last)
    local due = first_due(id, timing, tonumber(finish), math.max(now, last_due or 0))
    if due and due < math.floor(score) then
      redis.call('ZADD', due_set, due, id)
      if last_due then redis.call('HSET', last, id, string.format('%.0f:%.0f', last_due, lateness)) end
      moved = moved + 1
    end
  end
end
return { page[1], moved }
