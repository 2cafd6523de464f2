-- read-parked: parked messages as they will go back to their queues.
-- KEYS[1] due           zset    names the shard
-- ARGV[1...] members    text    1..500 keys in parked
-- Returns               per key four: key; list; delivery tag; envelope. Those that are not there, or unreadable, are left out
-- Atomic                reads only
-- Cost                  O(members), about 10 us each
--- @include "shard-keys"
--- @include "parked"
local due = KEYS[1]
local first_member = 1

local key = shard_keys(due)
local reply = {}
for i, value in ipairs(redis.call('HMGET', key.parked, unpack(ARGV, first_member))) do
  local list, envelope, tag
  if value then list, envelope, tag = parked_message(ARGV[first_member + i - 1], value) end
  if list then
    local n = #reply
    reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = ARGV[first_member + i - 1], list, tag, envelope
  end
end
return reply
