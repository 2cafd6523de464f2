-- set-enabled: pause or resume schedules of one shard. Times that pass while paused are not missed.
-- KEYS[1] meta            hash    namespace record
-- KEYS[2] due_set         zset    schedule id -> next due time and last lateness
-- KEYS[3] definitions     hash    schedule id -> definition
-- KEYS[4] last            hash    schedule id -> due:lateness of the last run
-- KEYS[5] completed       zset    finished one-shots
-- ARGV[1] epoch           text    of the namespace, as the caller knows it
-- ARGV[2] enabled         int     1 resume, 0 pause
-- ARGV[3] wake_channel    text    told when the shard's head moved to within a second from now
-- ARGV[4] shard           int
-- ARGV[5..] id            text    at most 500, each once
-- Returns                 a letter per id: u changed, n unchanged, m missing
-- Errors                  NAMESPACE_GONE
-- Atomic                  a paused schedule is in no due set, a resumed one is at its next grid point
-- Cost                    O(ids)
--- @include "redis-now"
--- @include "next-run"
local meta, due_set, definitions, last, completed = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local epoch, enabled, wake_channel, shard = ARGV[1], ARGV[2] == '1', ARGV[3], ARGV[4]

if redis.call('HGET', meta, 'epoch') ~= epoch then return redis.error_reply('NAMESPACE_GONE') end

local now = redis_now()
-- Redis refuses a script that grows memory only at its first write: pausing must be possible when it is full.
redis.call('ZREM', due_set, '')
local ids = { unpack(ARGV, 5) }
local stored = redis.call('HMGET', definitions, unpack(ids))
local scores = redis.call('ZMSCORE', due_set, unpack(ids))
local head = redis.call('ZRANGE', due_set, 0, 0, 'WITHSCORES')
local head_due = head[2] and tonumber(head[2]) or math.huge
local outcomes, earliest = {}, math.huge

for i, id in ipairs(ids) do
  local before, flag, timing, finish, rest
  if stored[i] then
    before, flag, timing, finish, rest = string.match(stored[i], '^([^\31]*\31[^\31]*\31)(%a)([^\31]*)\31([^\31]*)(\31.*)$')
  end
  if not flag then
    outcomes[i] = 'm'
  elseif (string.lower(flag) == flag) == enabled then
    outcomes[i] = 'n'
  else
    outcomes[i] = 'u'
    flag = (enabled and string.lower or string.upper)(flag)
    timing = flag .. timing
    local last_due, lateness = last_run(id, timing, tonumber(scores[i] or 0), last)
    redis.call('HSET', definitions, id, before .. timing .. '\31' .. finish .. rest)
    if last_due then redis.call('HSET', last, id, string.format('%.0f:%.0f', last_due, lateness)) end
    if not enabled then
      redis.call('ZREM', due_set, id)
    else
      local due = first_due(id, timing, tonumber(finish), math.max(now, last_due or 0))
      if due then
        redis.call('ZADD', due_set, due, id)
        earliest = math.min(earliest, due)
      elseif flag == 'o' and not redis.call('ZSCORE', completed, id) then
        redis.call('ZADD', completed, now, id)
      end
    end
  end
end
if earliest < head_due and earliest < now + 1000 then
  redis.call('PUBLISH', wake_channel, shard .. ':' .. string.format('%.0f', earliest))
end
return table.concat(outcomes)
