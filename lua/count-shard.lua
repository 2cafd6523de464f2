-- count-shard: how one shard stands.
-- KEYS[1] due           zset    of the shard; its other keys are named by the same prefix (lua/keys.ts)
-- ARGV[1] overdue_after int     ms past due from which something counts as overdue
-- Returns               [schedules, those of them with runs to come, runs in flight that are waited for, schedules with missed runs
--                       that wait for their turn, parked messages, schedules and extras that are overdue, dead letters]
-- Cost                  O(log schedules), and about 0.5 us for each run in flight and missed schedule
--- @include "redis-now"
--- @include "shard-keys"
local due = KEYS[1]
local overdue_after = tonumber(ARGV[1])

local key = shard_keys(due)
local before = string.format('(%.0f', redis_now() - overdue_after)
-- A loop in flight, and a one-shot whose missed run waits, are due nowhere else.
local elsewhere = #redis.call('ZDIFF', 4, key.deadlines, key.due, key.missed, key.claims) + #redis.call('ZDIFF', 2, key.missed, key.due)
local missed = redis.call('ZCARD', key.missed)
return {
  redis.call('HLEN', key.definitions),
  redis.call('ZCARD', key.due) + redis.call('ZCARD', key.claims) + elsewhere,
  redis.call('HLEN', key.journal),
  missed,
  redis.call('HLEN', key.parked),
  redis.call('ZCOUNT', key.due, '-inf', before) + redis.call('ZCOUNT', key.extra, '-inf', before) + missed,
  redis.call('XLEN', key.dead_letters),
}
