-- revoke-results: store and publish a result record for revoked tasks, except where one tells that a task has begun or ended.
-- KEYS[1...] results    string  result record of each task; also the channel's name
-- ARGV[1] expires       int     s that a result is kept; 0: for ever
-- ARGV[2...] records    text    one for each of the keys
-- Returns               [position of a key whose record was stored (from 1), ...]
-- Atomic                what has ended meanwhile stays as it ended
-- Cost                  O(keys), 3 commands each
local expires = tonumber(ARGV[1])
local first_record, HEAD_BYTES = 2, 64

-- As Celery decides it (celery/worker/control.py, _revoke).
local OPEN = { PENDING = true, RECEIVED = true, RETRY = true, REJECTED = true }

local stored = {}
for position, key in ipairs(KEYS) do
  local head = redis.pcall('GETRANGE', key, 0, HEAD_BYTES - 1)
  -- A key of another type (an error, which is a table), or a text that does not begin as a record does, is somebody else's.
  if type(head) == 'string' and (head == '' or OPEN[string.match(head, '^{"status": "([^"]*)"') or '']) then
    stored[#stored + 1] = position
  end
end

for _, position in ipairs(stored) do
  local key, record = KEYS[position], ARGV[first_record + position - 1]
  if expires > 0 then
    redis.call('SETEX', key, expires, record)
  else
    redis.call('SET', key, record)
  end
  redis.call('PUBLISH', key, record)
end
return stored
