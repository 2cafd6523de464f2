-- Parts of chords, counted together with Celery's workers (celery/backends/redis.py, on_chord_part_return). A chord's keys begin
-- with `celery-taskset-meta-<group id>`: `.j` zset or list of parts, `.s` how many are to come, `.t` how many were added,
-- `.d` set of `<task id>:<place>` counted (newer Celery), `.c` who sends its body: a token, or `done` (newer Celery).

local CLAIM_SEC = 30

-- Counts a part. Answers whether it was the last one and `token` is now the one to send the body.
local function add_chord_part(group, place, task_id, part, expires, token)
  local size, added, claim = unpack(redis.call('MGET', group .. '.s', group .. '.t', group .. '.c'))
  if claim == 'done' then return false end
  local parts, is_list = group .. '.j', redis.call('TYPE', group .. '.j').ok == 'list'
  local counted = redis.pcall('SADD', group .. '.d', task_id .. ':' .. place)
  if counted ~= 0 then
    -- A fleet that wants no order keeps a list.
    local put = is_list and redis.pcall('RPUSH', parts, part) or redis.pcall('ZADD', parts, place, part)
    if type(put) == 'table' then return false end
  end
  local count = redis.call(is_list and 'LLEN' or 'ZCARD', parts)
  if expires > 0 then
    for _, suffix in ipairs({ '.j', '.t', '.s', '.d', '' }) do redis.call('EXPIRE', group .. suffix, expires) end
  end
  if not size or count ~= tonumber(size) + tonumber(added or 0) then return false end
  return redis.call('SET', group .. '.c', token, 'NX', 'EX', CLAIM_SEC) and true or false
end

-- Counts a part and notes the chord that it completes, with what follows that. `names`: `<place in the group or +inf>\31<task id>`.
local function count_part(chords, token, expires, group_id, names, part, follow)
  local place, task_id = string.match(names, '^(.*)\31(.*)$')
  if not add_chord_part('celery-taskset-meta-' .. group_id, place, task_id, part, expires, token) then return false end
  redis.call('HSET', chords, group_id, follow)
  return true
end

-- Whether `token` may send the body: it holds the claim, or takes one that has run out while the chord is there.
local function hold_chord(group, token)
  local claim, size = unpack(redis.call('MGET', group .. '.c', group .. '.s'))
  if claim then return claim == token end
  if not size then return false end
  redis.call('SET', group .. '.c', token, 'EX', CLAIM_SEC)
  return true
end
