-- set-enabled: pause or resume schedules of one shard. Times that pass while paused are not missed.
-- KEYS[1] meta            hash    namespace record
-- KEYS[2] due_key         zset    of the shard; its other keys are named by the same prefix (lua/keys.ts)
-- ARGV[1] epoch           text    of the namespace, as the caller knows it
-- ARGV[2] enabled         int     1 resume, 0 pause
-- ARGV[3] wake_channel    text    told when the shard's head moved to within a second from now
-- ARGV[4] shard           int
-- ARGV[5..] id            text    at most 500, each once
-- Returns                 a letter per id: u changed, n unchanged, m missing
-- Errors                  NAMESPACE_GONE
-- Atomic                  a paused schedule waits nowhere, a resumed one at its next grid point, or when its loop was due
-- Cost                    O(ids)
--- @include "redis-now"
--- @include "shard-keys"
--- @include "times"
--- @include "next-run"
--- @include "record-change"
local meta, due_key = KEYS[1], KEYS[2]
local epoch, enabled, wake_channel, shard = ARGV[1], ARGV[2] == '1', ARGV[3], ARGV[4]

local record = redis.call('HMGET', meta, 'epoch', 'journal')
if record[1] ~= epoch then return redis.error_reply('NAMESPACE_GONE') end

local key = shard_keys(due_key)
local now = redis_now()
-- Redis refuses a script that grows memory only at its first write: pausing must be possible when it is full.
redis.call('ZREM', key.due, '')
local ids = { unpack(ARGV, 5) }
local stored = redis.call('HMGET', key.definitions, unpack(ids))
local scores = redis.call('ZMSCORE', key.due, unpack(ids))
local head = redis.call('ZRANGE', key.due, 0, 0, 'WITHSCORES')
local head_due = head[2] and tonumber(head[2]) or math.huge
local outcomes, earliest, changes = {}, math.huge, {}

local function resume(id, timing, finish, last_due)
  local is_exhausted = timing.max_runs and tonumber(redis.call('HGET', key.runs, id) or 0) >= timing.max_runs
  -- A run in flight brings its loop back.
  if timing.kind == 'a' and redis.call('HEXISTS', key.journal, id) == 1 then return end
  local held = timing.kind == 'a' and redis.call('HGET', key.held, id) or nil
  if held and held ~= '-' then redis.call('HDEL', key.held, id) end
  if is_exhausted then return end
  local floor = math.max(now, last_due or 0)
  local due, after = first_due(key, id, timing, finish, floor, now, held)
  if due then
    redis.call('ZADD', key.due, due, id)
    earliest = math.min(earliest, due)
  elseif due == false then
    redis.call('ZADD', key.claims, after, id)
  elseif timing.kind == 'o' and not redis.call('ZSCORE', key.completed, id) then
    redis.call('ZADD', key.completed, now, id)
  end
end

local function pause(id, timing, score)
  -- One that a queue cap holds is due at its own time, which is kept already.
  if timing.kind == 'a' and score and score == math.floor(score) then
    redis.call('HSET', key.held, id, string.format('%.0f', score))
  end
  redis.call('ZREM', key.due, id)
  redis.call('ZREM', key.claims, id)
  redis.call('ZREM', key.missed, id)
  redis.call('HDEL', key.missed_ranges, id)
end

for i, id in ipairs(ids) do
  local before, text, finish, rest, timing
  if stored[i] then
    before, text, finish, rest = string.match(stored[i], '^([^\31]*\31[^\31]*\31)([^\31]*)\31([^\31]*)(\31.*)$')
    timing = text and timing_of(text)
  end
  if not timing then
    outcomes[i] = 'm'
  elseif timing.is_paused ~= enabled then
    outcomes[i] = 'n'
  else
    outcomes[i] = 'u'
    text = (enabled and string.lower or string.upper)(string.sub(text, 1, 1)) .. string.sub(text, 2)
    local score = tonumber(scores[i] or nil)
    local last_due, lateness = last_run(key, id, timing, score or 0)
    local definition = before .. text .. '\31' .. finish .. rest
    redis.call('HSET', key.definitions, id, definition)
    if last_due then redis.call('HSET', key.last, id, string.format('%.0f:%.0f', last_due, lateness)) end
    if enabled then resume(id, timing, tonumber(finish), last_due) else pause(id, timing, score) end
    if record[2] == '1' then
      changes[#changes + 1] = 'put'
      changes[#changes + 1] = id .. '\30' .. definition .. string.sub(state_of(key, id), #id + 1)
    end
  end
end
record_changes(key, epoch, changes)
if earliest < head_due and earliest < now + 1000 then
  redis.call('PUBLISH', wake_channel, shard .. ':' .. string.format('%.0f', earliest))
end
return table.concat(outcomes)
