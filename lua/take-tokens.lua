-- take-tokens: take from the buckets that all workers of the namespace start their limited tasks from.
-- KEYS[1] rates       hash    task -> `<tokens>:<at ms>` of its bucket
-- ARGV[1...] buckets  text    1..200 times: task, tokens a ms, tokens that it holds at most, tokens wanted
-- Returns             [tokens taken, ms until what is still wanted is there (at most a whole bucket; 0: nothing is), ...]
-- Atomic              no token is given out twice; a call that is repeated takes again, and so starts less, never more
-- Cost                O(buckets), 4 commands whatever their number
--- @include "redis-now"
local rates = KEYS[1]
local fields = 4

local now_ms = redis_now()
local names = {}
for at = 1, #ARGV, fields do names[#names + 1] = ARGV[at] end
-- Redis refuses a script that grows memory only at its first write, and a full Redis needs its workers most.
redis.call('HDEL', rates, '')
local stored = redis.call('HMGET', rates, unpack(names))

local reply, written = {}, {}
for number, name in ipairs(names) do
  local first = (number - 1) * fields
  local per_ms, size, wanted = tonumber(ARGV[first + 2]), tonumber(ARGV[first + 3]), tonumber(ARGV[first + 4])
  local left, at = string.match(stored[number] or '', '^([%d.]+):(%d+)$')
  -- A new bucket is full. While Redis's clock is behind where it was, none fills.
  local tokens = left and math.min(size, left + math.max(0, now_ms - at) * per_ms) or size
  -- What was a whole token before it was written and read is one still.
  local taken = math.min(wanted, math.floor(tokens + 0.000001))
  tokens = math.max(0, tokens - taken)
  local missing = math.min(wanted - taken, size) - tokens
  reply[#reply + 1] = taken
  reply[#reply + 1] = missing > 0 and math.ceil(missing / per_ms) or 0
  written[#written + 1] = name
  written[#written + 1] = string.format('%.9f:%.0f', tokens, now_ms)
end
redis.call('HSET', rates, unpack(written))
return reply
