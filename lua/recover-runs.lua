-- recover-runs: start the next attempt of runs in flight whose worker died.
-- KEYS[1] workers       zset    worker id -> last heartbeat, ms since epoch
-- KEYS[2] reserved      set     delivery tags that the holder holds
-- KEYS[3] waiting       set     those of them whose tasks have not started
-- KEYS[4] unacked       hash    delivery tag -> [envelope, exchange, routing key]
-- KEYS[5] index         zset    delivery tag -> delivered at, s since epoch
-- KEYS[6] dead_letters  stream  messages that were given up
-- ARGV[1] worker_id     text    the holder
-- ARGV[2] lease         int     act only if the holder's last heartbeat is further from now than this, ms
-- ARGV[3] attempts      int     a run that failed so often this way is given up
-- ARGV[4] dead_limit    int     entries that the dead letters keep, about
-- ARGV[5...] runs       text    in sevens: tag; score it had in index; due key of its shard; schedule id; list; the next
--                               attempt's tag; its envelope
-- Returns               [now_ms, recovered, given up, position of a message that is no run in flight (from 1), ...]
-- Atomic                the old attempt is gone exactly when the next one is parked, to be sent at once or after a pause
-- Cost                  O(runs), about thirteen commands each
--- @include "redis-now"
--- @include "shard-keys"
--- @include "times"
--- @include "next-run"
--- @include "record-change"
--- @include "complete-run"
--- @include "parked"
--- @include "release"
local workers, reserved, waiting, unacked, index, dead_letters = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local worker_id, lease, attempts, dead_limit = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local first_run, PAUSE_MS, LONGEST_PAUSE_MS = 5, 1000, 60000

local now_ms = redis_now()
local seen_ms = tonumber(redis.call('ZSCORE', workers, worker_id) or now_ms)
if math.abs(now_ms - seen_ms) <= lease then return { now_ms, 0, 0 } end

local reply = { now_ms, 0, 0 }
for at = first_run, #ARGV, 7 do
  local tag, score, due_key, id = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local list, next_tag, envelope = ARGV[at + 4], ARGV[at + 5], ARGV[at + 6]
  local key = shard_keys(due_key)
  local namespace, shard = string.match(due_key, '^(.*):{(%d+)}:due$')
  local meta = redis.call('HMGET', namespace .. ':meta', 'epoch', 'journal')
  local endings = open_endings(key, meta[1] and { id } or {})
  local flight = endings.flights[id]
  if not flight or flight.tag ~= tag then
    reply[#reply + 1] = (at - first_run) / 7 + 1
  elseif redis.call('HEXISTS', unacked, tag) == 1 and (redis.call('ZSCORE', index, tag) or '') == score then
    release(unacked, index, reserved, waiting, tag)
    local attempt, due = flight.attempt + 1
    if attempt > attempts then
      redis.call('XADD', dead_letters, 'MAXLEN', '~', dead_limit, '*', 'queue', list,
        'reason', 'its worker died in each of ' .. attempts .. ' attempts', 'message', envelope)
      due = complete_run(endings, id, now_ms, 'failure', nil)
      write_endings(endings)
      reply[3] = reply[3] + 1
    else
      -- The second attempt follows at once: nothing says that it was this run that killed its worker.
      due = now_ms + (attempt == 2 and 0 or math.min(PAUSE_MS * 2 ^ (attempt - 3), LONGEST_PAUSE_MS))
      put_parked(key.extra, key.parked, flight.task_id, next_tag, due, list, envelope)
      redis.call('HSET', key.journal, id, table.concat({ flight.task_id, flight.due, flight.run, attempt, next_tag, list,
        flight.buffered, string.format('%.0f', flight.dispatched) }, '\31'))
      reply[2] = reply[2] + 1
    end
    if meta[2] == '1' then record_changes(key, meta[1], { 'state', state_of(key, id) }) end
    if due and due < now_ms + 1000 then redis.call('PUBLISH', namespace .. ':wake', shard .. ':' .. string.format('%.0f', due)) end
  end
end
return reply
