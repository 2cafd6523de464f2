-- list-parked: which messages are parked in a shard for some queues, nearest first.
-- KEYS[1] due           zset    names the shard
-- ARGV[1] from          int     how many entries to pass over
-- ARGV[2] limit         int     1..1000 entries to look at
-- ARGV[3...] queues     text
-- Returns               [1 when there are more entries behind these, then in pairs: key in parked, eta in ms]
-- Atomic                reads only
-- Cost                  O(limit), about 1 us each
--- @include "shard-keys"
local due = KEYS[1]
local from, limit = tonumber(ARGV[1]), tonumber(ARGV[2])
local first_queue, PAGE = 3, 200

local key = shard_keys(due)
local wanted = {}
for position = first_queue, #ARGV do wanted[ARGV[position]] = true end

local entries = redis.call('ZRANGE', key.extra, from, from + limit - 1, 'WITHSCORES')
local reply = { #entries == 2 * limit and 1 or 0 }
for first = 1, #entries, 2 * PAGE do
  local members = {}
  for at = first, math.min(first + 2 * PAGE, #entries) - 1, 2 do members[#members + 1] = entries[at] end
  for i, value in ipairs(redis.call('HMGET', key.parked, unpack(members))) do
    local list = value and string.match(value, '^([^\31]+)\31')
    if list and wanted[string.match(list, '^(.*)\6\022%d$') or list] then
      reply[#reply + 1] = members[i]
      reply[#reply + 1] = tonumber(entries[first + 2 * i - 1])
    end
  end
end
return reply
