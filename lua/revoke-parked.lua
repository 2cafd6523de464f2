-- revoke-parked: take parked messages of some tasks out of their shard for good, each leaving a result record that says so.
-- KEYS[1] meta          hash    the namespace's record
-- KEYS[2] due           zset    names the shard
-- KEYS[3...] results    string  result record of each task; also the channel's name
-- ARGV[1] shards        int     how many shards the caller believes the namespace has
-- ARGV[2] expires       int     s that a result is kept; 0: for ever
-- ARGV[3...] entries    text    in pairs: task id (lua/parked.ts); record
-- Returns               [how many messages of that task were taken out, ...]
-- Errors                NAMESPACE_GONE when there is no such namespace, or one of another number of shards
-- Atomic                a parked message is gone exactly when its record is stored; a record of success stays as it is
-- Cost                  O(entries), about 30 us each
--- @include "shard-keys"
--- @include "is-success"
local meta, due = KEYS[1], KEYS[2]
local shards, expires = ARGV[1], tonumber(ARGV[2])
local first_result, first_entry, PAGE = 3, 3, 16

if redis.call('HGET', meta, 'shards') ~= shards then return redis.error_reply('NAMESPACE_GONE') end

local key = shard_keys(due)
redis.call('ZCARD', key.extra)

-- A message under an id that was taken is kept under the id and a number.
local function members_of(id)
  local members, copies = {}, 0
  while true do
    local page = {}
    for n = copies, copies + PAGE - 1 do page[#page + 1] = n == 0 and id or id .. '\31' .. n end
    local found = false
    for i, value in ipairs(redis.call('HMGET', key.parked, unpack(page))) do
      if value then
        found = true
        members[#members + 1] = page[i]
      end
    end
    if not found then return members end
    copies = copies + PAGE
  end
end

local reply, revoked = {}, {}
for position = first_entry, #ARGV, 2 do
  local number = (position - first_entry) / 2 + 1
  local members = members_of(ARGV[position])
  reply[number] = #members
  if #members > 0 then
    local result = KEYS[first_result + number - 1]
    revoked[#revoked + 1] = {
      members = members, result = result, record = ARGV[position + 1], is_final = is_success(redis.call('GET', result)),
    }
  end
end

for _, task in ipairs(revoked) do
  redis.call('HDEL', key.parked, unpack(task.members))
  redis.call('ZREM', key.extra, unpack(task.members))
  if not task.is_final then
    if expires > 0 then
      redis.call('SETEX', task.result, expires, task.record)
    else
      redis.call('SET', task.result, task.record)
    end
    redis.call('PUBLISH', task.result, task.record)
  end
end
return reply
