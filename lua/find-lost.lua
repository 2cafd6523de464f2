-- find-lost: who died, and which messages were delivered too long ago.
-- KEYS[1] workers     zset    worker id -> last heartbeat, ms since epoch
-- KEYS[2] index       zset    delivery tag -> delivered at, s since epoch
-- ARGV[1] lease       int     ms after which a worker without heartbeat is dead; 0: do not look
-- ARGV[2] visibility  int     ms after which an unacked message is lost; 0: do not look
-- ARGV[3] limit       int     1..1000 of each
-- ARGV[4] expected    int     what the caller thinks Redis TIME is, ms: when it is wrong the clock has just stepped, and nobody is judged
-- Returns             [now_ms, [dead worker id, ...], [delivery tag, score, ...]], longest dead and lost first
-- Atomic              reads only
-- Cost                O(limit)
--- @include "redis-now"
local workers, index = KEYS[1], KEYS[2]
local lease, visibility, limit, expected = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local now_ms = redis_now()
local dead, lost = {}, {}
if math.abs(now_ms - expected) > 1000 then return { now_ms, dead, lost } end
if lease > 0 then
  dead = redis.call('ZRANGEBYSCORE', workers, '-inf', '(' .. now_ms - lease, 'LIMIT', 0, limit)
  -- Heartbeats from before the clock stepped back: who lives has sent another since.
  for _, ahead in ipairs(redis.call('ZRANGEBYSCORE', workers, '(' .. now_ms + lease, '+inf', 'LIMIT', 0, limit)) do
    dead[#dead + 1] = ahead
  end
end
if visibility > 0 then
  local before = string.format('(%.3f', (now_ms - visibility) / 1000)
  lost = redis.call('ZRANGEBYSCORE', index, '-inf', before, 'WITHSCORES', 'LIMIT', 0, limit)
end
return { now_ms, dead, lost }
