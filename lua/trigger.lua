-- trigger: run a schedule once, now, in whatever state it is.
-- KEYS[1] meta            hash    namespace record
-- KEYS[2] due_key         zset    of the shard; its other keys are named by the same prefix (lua/keys.ts)
-- KEYS[3] request         string  task id that the request was given, kept 10 minutes
-- ARGV[1] epoch           text    of the namespace, as the caller knows it
-- ARGV[2] id              text
-- ARGV[3] wake_channel    text    told that something is due
-- ARGV[4] shard           int
-- Returns                 task id of the run; '' when there is no such schedule, '!' for a loop whose run is in flight, '=' when
--                         its backlog is full
-- Errors                  NAMESPACE_GONE
-- Atomic                  a waiting loop's next run is moved to now; any other schedule is given a run of its own beside
-- Cost                    about 8 commands
--- @include "redis-now"
--- @include "shard-keys"
--- @include "times"
--- @include "next-run"
--- @include "record-change"
local meta, due_key, request = KEYS[1], KEYS[2], KEYS[3]
local epoch, id, wake_channel, shard = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local MAX_BACKLOG = 10000

local record = redis.call('HMGET', meta, 'epoch', 'journal')
if record[1] ~= epoch then return redis.error_reply('NAMESPACE_GONE') end
local answered = redis.call('GET', request)
if answered then return answered end

local key = shard_keys(due_key)
local now = redis_now()
local definition = redis.call('HGET', key.definitions, id)
local number, seed, text = string.match(definition or '', '^([^\31]*)\31([^\31]*)\31([^\31]*)\31')
local timing = text and timing_of(text)
if not timing then return '' end
local template = redis.call('HGET', key.templates, number) or ''
local mode = string.match(template, '^[^\31]*\31[^\31]*\31[^\31]*\31[^\31]*\31[^\31]*\31(%a)')
local is_loop = timing.kind == 'a'
if is_loop and redis.call('HEXISTS', key.journal, id) == 1 then return '!' end
local backlog = key.prefix .. 'backlog:' .. id
if redis.call('LLEN', backlog) >= MAX_BACKLOG then return '=' end

local group = mode ~= 'a' and string.format('a%03x-', shard) or nil

-- Makes the run that a loop waits for due now: its due time; nil when it waits for none.
local function start_now()
  local score = tonumber(redis.call('ZSCORE', key.due, id) or nil)
  if score and score > math.floor(score) then return tonumber(redis.call('HGET', key.held, id) or now) end
  local missed = tonumber(redis.call('ZSCORE', key.missed, id) or nil)
  if missed then
    -- As one that a queue cap held, so that it is not judged as missed again.
    redis.call('ZADD', key.due, string.format('%.4f', now + 1 / 2048), id)
    redis.call('HSET', key.held, id, string.format('%.0f', missed))
    redis.call('ZREM', key.missed, id)
    return missed
  end
  if not score and not redis.call('ZSCORE', key.claims, id) then return nil end
  -- A run that is due already is the one that is asked for.
  local due = math.min(score or now, now)
  redis.call('ZADD', key.due, due, id)
  redis.call('ZREM', key.claims, id)
  return due
end

local due, task_id = is_loop and start_now() or nil
if due then
  task_id = seed .. group .. string.format('%012x', due)
  if record[2] == '1' then record_changes(key, epoch, { 'state', state_of(key, id) }) end
else
  local run = redis.call('HINCRBY', key.counts, 'runs', 1)
  task_id = seed .. (group or '8001-') .. string.format('f%011x', run)
  redis.call('LPUSH', backlog, string.format('t%d:%.0f:%s', run, now, seed))
  redis.call('ZADD', key.extra, now, '\31' .. id)
end
redis.call('SET', request, task_id, 'PX', 600000)
redis.call('PUBLISH', wake_channel, shard .. ':' .. string.format('%.0f', now))
return task_id
