-- replay-run: make up for a run of a schedule that was given up.
-- KEYS[1] meta            hash    namespace record
-- KEYS[2] due             zset    of the shard; its other keys are named by the same prefix (lua/keys.ts)
-- ARGV[1] epoch           text    of the namespace, as the caller knows it
-- ARGV[2] entry           text    id of the letter in the shard's stream
-- ARGV[3] wake_channel    text    told that something is due
-- ARGV[4] shard           int
-- Returns                 replayed; gone when the letter is not there (any more); missing when the schedule is not; unreadable when its
--                         definition or template is; paused for a loop that is; full when too many extra runs of it wait
-- Errors                  NAMESPACE_GONE
-- Atomic                  a schedule that waits nowhere is due again from the run that was given up on, a waiting loop runs now, any
--                         other one is given an extra run for that time; with it the letter goes
-- Cost                    about 15 commands
--- @include "redis-now"
--- @include "shard-keys"
--- @include "times"
--- @include "next-run"
--- @include "record-change"
local meta, due = KEYS[1], KEYS[2]
local epoch, entry, wake_channel, shard = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local MAX_BACKLOG = 10000

local record = redis.call('HMGET', meta, 'epoch', 'journal')
if record[1] ~= epoch then return redis.error_reply('NAMESPACE_GONE') end

local key = shard_keys(due)
local now = redis_now()
local letters = redis.call('XRANGE', key.dead_letters, entry, entry)
if #letters == 0 then return 'gone' end
local letter, fields = {}, letters[1][2]
for i = 1, #fields, 2 do letter[fields[i]] = fields[i + 1] end
local id, given_up = letter.id, tonumber(letter.due)

local definition = redis.call('HGET', key.definitions, id)
if not definition then return 'missing' end
local number, text = string.match(definition, '^([^\31]+)\31[^\31]+\31([^\31]+)\31[^\31]*\31[^\31]+\31')
local timing = text and timing_of(text)
if not timing or not given_up or redis.call('HEXISTS', key.templates, number) == 0 then return 'unreadable' end

local is_loop = timing.kind == 'a'
local is_stopped = is_loop and redis.call('HGET', key.held, id) == '-'
local is_exhausted = timing.max_runs and tonumber(redis.call('HGET', key.runs, id) or 0) >= timing.max_runs
local is_in_flight = redis.call('HEXISTS', key.journal, id) == 1
local is_waiting = redis.call('ZSCORE', key.due, id) or redis.call('ZSCORE', key.claims, id) or redis.call('ZSCORE', key.missed, id)
  or is_loop and is_in_flight
local is_over = is_stopped or is_exhausted or redis.call('ZSCORE', key.completed, id)
local backlog = key.prefix .. 'backlog:' .. id

if is_loop and timing.is_paused then return 'paused' end
if is_loop and not is_over then
  -- One that is in flight, or held by a queue cap, runs as soon as it can.
  local score = tonumber(redis.call('ZSCORE', key.due, id) or nil)
  if not is_waiting or score and score == math.floor(score) and score > now then redis.call('ZADD', key.due, now, id) end
elseif not (timing.is_paused or is_waiting or is_over) then
  redis.call('ZADD', key.due, timing.kind == 'o' and timing.first or given_up, id)
else
  if redis.call('LLEN', backlog) >= MAX_BACKLOG then return 'full' end
  local run = redis.call('HINCRBY', key.counts, 'runs', 1)
  redis.call('RPUSH', backlog, string.format('b%d:%.0f', run, given_up))
  redis.call('ZADD', key.extra, now, '\31' .. id)
end
redis.call('XDEL', key.dead_letters, entry)
if record[2] == '1' then record_changes(key, epoch, { 'state', state_of(key, id) }) end
redis.call('PUBLISH', wake_channel, shard .. ':' .. string.format('%.0f', now))
return 'replayed'
