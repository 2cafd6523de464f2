-- forward: move messages from unacked on into other queues, behind what waits there.
-- KEYS[1] reserved   set   delivery tags that the caller holds
-- KEYS[2] waiting    set   those of them whose tasks have not started
-- KEYS[3] unacked    hash  delivery tag -> [envelope, exchange, routing key]
-- KEYS[4] index      zset  delivery tag -> delivered at, s since epoch
-- KEYS[5...] lists   list  where they go
-- ARGV[1...] entries text  in pairs: tag; number of its list (from 1)
-- Returns            [positions of entries that the caller held no longer (from 1)], [positions of entries whose list is a key
--                    of another type: they are still held]
-- Atomic             a message is in unacked or in its queue, never both, never neither
-- Cost               O(entries), six commands each
--- @include "release"
local reserved, waiting, unacked, index = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local first_list, first_entry = 5, 1

redis.call('SCARD', reserved)
redis.call('SCARD', waiting)
redis.call('HLEN', unacked)
redis.call('ZCARD', index)
local usable = {}
for position = first_list, #KEYS do
  local type = redis.call('TYPE', KEYS[position]).ok
  usable[position] = type == 'list' or type == 'none'
end

local late, stuck = {}, {}
for position = first_entry, #ARGV, 2 do
  local tag, at = ARGV[position], first_list + tonumber(ARGV[position + 1]) - 1
  local value = redis.call('SISMEMBER', reserved, tag) == 1 and redis.call('HGET', unacked, tag)
  local envelope = value and string.match(value, '^%[(.*), "[^"]*", "[^"]*"%]$')
  if not envelope then
    late[#late + 1] = (position - first_entry) / 2 + 1
  elseif not usable[at] then
    stuck[#stuck + 1] = (position - first_entry) / 2 + 1
  else
    release(unacked, index, reserved, waiting, tag)
    redis.call('LPUSH', KEYS[at], envelope)
  end
end
return { late, stuck }
