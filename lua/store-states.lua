-- store-states: store states of tasks that have not ended, and publish them.
-- KEYS[1...] results    string  result records; also the channels' names
-- ARGV[1] expires       int     s that they are kept; 0: for ever
-- ARGV[2...] records    text    one for every key
-- Returns               how many were stored
-- Atomic                a record of success is never overwritten
-- Cost                  O(records), three commands each
--- @include "is-success"
local expires, stored = tonumber(ARGV[1]), 0
for position, key in ipairs(KEYS) do
  local record = ARGV[position + 1]
  if not is_success(redis.call('GET', key)) then
    if expires > 0 then
      redis.call('SETEX', key, expires, record)
    else
      redis.call('SET', key, record)
    end
    redis.call('PUBLISH', key, record)
    stored = stored + 1
  end
end
return stored
