-- reserve: take messages from their queues, most urgent list first, fair between queues of one urgency. They go to unacked.
-- Those that start as they are taken are started here (see start): acknowledged, or not noted as waiting.
-- KEYS[1] workers       zset    worker id -> last heartbeat, ms since epoch
-- KEYS[2] state         hash    the worker's: batch (counter last served), tags (what of that batch went to unacked, a line
--                               each), direct (numbers of the lists of the rest)
-- KEYS[3] reserved      set     delivery tags that the worker holds
-- KEYS[4] unacked       hash    delivery tag -> [envelope, exchange, routing key]
-- KEYS[5] index         zset    delivery tag -> delivered at, s since epoch
-- KEYS[6] dead_letters  stream  elements that are no message
-- KEYS[7] direct_list   list    envelopes of the last batch that were acknowledged as they were taken, for a repeated answer
-- KEYS[8] waiting       set     those of them whose tasks have not started
-- KEYS[9] crashes       hash    delivery tag -> how many workers died of that message
-- KEYS[10...] lists     list    envelopes, newest at the head; all queues at the first step, then all at the next
-- ARGV[1] worker_id     text
-- ARGV[2] counter       int     larger than that of the worker's last answered call; the same again repeats the answer
-- ARGV[3] limit         int     1..1000 messages
-- ARGV[4] byte_limit    int     stop once this many bytes were taken
-- ARGV[5] dead_limit    int     entries that the dead letters keep, about
-- ARGV[6] direct_room   int     how many messages may start as they are taken: their functions are entered at once
-- ARGV[7] tasks         text    of which tasks, a JSON text a line, behind a + those that are acknowledged late; only messages
--                               as kombu writes them, without eta, that no schedule waits for
-- ARGV[8] max_crashes   int     workers that may die of a message before it is given up
-- ARGV[9...] tails      text    per queue, what follows the envelope in unacked: `, "", "<queue>"]`
-- Returns               [now_ms, elements that were no message, [lists of another type], list number (negative: acknowledged;
--                       above 1,000,000: started), tag, envelope, ...]
-- Atomic                a message is in its queue, in unacked, or acknowledged, and known by one worker only
-- Cost                  O(limit); a command for each message that is acknowledged, else a handful whatever the limit
--- @include "redis-now"
local workers, state, reserved, unacked, index, dead_letters = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local worker_id, counter = ARGV[1], tonumber(ARGV[2])
local limit, byte_limit, dead_limit = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local direct_list, waiting, crashes = KEYS[7], KEYS[8], KEYS[9]
local direct_room, max_crashes = tonumber(ARGV[6]), ARGV[8]
local first_list, first_tail, STARTED = 10, 9, 1000000
local queues = #ARGV - first_tail + 1

local now_ms, now_us = redis_now()
local wrong = {}
local reply = { now_ms, 0, wrong }

local served = tonumber(redis.call('HGET', state, 'batch') or -1)
-- A late copy of a call that was answered long ago: whoever sent it is no longer listening.
if counter < served then return reply end

-- How kombu ends an envelope; anything else is decoded in full.
local TAIL = '^"delivery_info": {"exchange": "[^"]*", "routing_key": "[^"]*"}, "priority": %d+, '
  .. '"body_encoding": "base64", "delivery_tag": "([%w%-]+)"}}$'

local function tag_of(envelope)
  local at = string.byte(envelope) == 123 and string.find(envelope, '"delivery_info": ', -400, true)
  local tag = at and string.match(envelope, TAIL, at)
  if tag then return tag end
  local ok, message = pcall(cjson.decode, envelope)
  if not ok or type(message) ~= 'table' then return nil, 'it is no JSON object' end
  local properties = message.properties
  if type(properties) ~= 'table' then return nil, 'it has no properties' end
  local info = properties.delivery_info
  if type(info) ~= 'table' or type(info.exchange) ~= 'string' or type(info.routing_key) ~= 'string' then
    return nil, 'it has no delivery_info'
  end
  tag = properties.delivery_tag
  if type(tag) ~= 'string' or tag == '' or #tag > 200 or string.find(tag, '%c') then return nil, 'it has no usable delivery_tag' end
  return tag
end

local function reply_with(place, tag, envelope)
  local at = #reply
  reply[at + 1], reply[at + 2], reply[at + 3] = place, tag, envelope
end

if counter == served then
  local recorded = redis.call('HMGET', state, 'tags', 'direct')
  local envelopes, taken = redis.call('LRANGE', direct_list, 0, -1), 0
  for number in string.gmatch(recorded[2] or '', '%d+') do
    taken = taken + 1
    local envelope = envelopes[taken]
    -- Nobody listens any more: a later call has been answered.
    if not envelope then break end
    reply_with(-number, tag_of(envelope), envelope)
  end
  for number, tag in string.gmatch(recorded[1], '(%d+) ([^\n]+)') do
    local value = redis.call('SISMEMBER', reserved, tag) == 1 and redis.call('HGET', unacked, tag)
    local envelope = value and string.match(value, '^%[(.*), "[^"]*", "[^"]*"%]$')
    if envelope then
      reply_with(tonumber(number), tag, envelope)
    end
  end
  return reply
end

-- Whatever has the wrong type must say so now: after the first pop nothing may fail.
redis.call('ZCARD', workers)
redis.call('SCARD', reserved)
redis.call('HLEN', unacked)
redis.call('ZCARD', index)
redis.call('XLEN', dead_letters)
redis.call('LLEN', direct_list)
redis.call('SCARD', waiting)
redis.call('HLEN', crashes)

local score = string.sub(now_us, 1, -7) .. '.' .. string.sub(now_us, -6)
local tags, lines, scores, fields = {}, {}, {}, {}
local direct, direct_numbers, waiting_tags, starts = {}, {}, {}, {}
-- Nothing but messages that start early was taken so far.
local is_early = false
if direct_room > 0 then
  -- What workers died of has a last chance, which start gives.
  local may_start_late = redis.call('HLEN', crashes) == 0
  for mark, name in string.gmatch(ARGV[7], '(%+?)([^\n]+)') do
    if mark == '' then
      starts[name] = 'early'
      is_early = true
    elseif may_start_late then
      starts[name] = 'late'
    end
  end
end
local room, bytes, seen = limit, byte_limit, 0

-- How kombu begins an envelope whose task may start at once.
local HEAD = '^{"body": "[^"]*", "content%-encoding": "utf%-8", "content%-type": "application/json", "headers": '
  .. '{"lang": "py", "task": ("[^"]+"), "id": "[^"]+", "shadow": null, "eta": null, '

-- Whether it may start as it is taken: early or late, as it is acknowledged; nil when it may not.
local function start_of(envelope)
  local task = string.match(envelope, HEAD)
  local start = task and starts[task]
  return start and not string.find(envelope, '"journal": ', 1, true) and start or nil
end

-- Takes up to so many messages that start early, and stops before any other; how many it took.
-- They go from list to list, for what Redis is given anew it writes to its log again.
local function take_early(number, want)
  local list, taken = KEYS[first_list + number - 1], 0
  while taken < want and direct_room > 0 and bytes > 0 do
    local envelope = redis.pcall('LMOVE', list, direct_list, 'RIGHT', 'RIGHT')
    if not envelope then break end
    if envelope.err then
      wrong[#wrong + 1] = list
      break
    end
    local tag = start_of(envelope) == 'early' and tag_of(envelope)
    if not tag then
      redis.call('LMOVE', direct_list, list, 'RIGHT', 'RIGHT')
      is_early = false
      break
    end
    direct_room = direct_room - 1
    direct_numbers[#direct_numbers + 1] = number
    reply_with(-number, tag, envelope)
    bytes = bytes - #envelope
    taken = taken + 1
  end
  is_early = is_early and direct_room > 0
  return taken
end

local function accept(number, envelope)
  local tag, reason = tag_of(envelope)
  local queue = (number - 1) % queues
  if not tag then
    reply[2] = reply[2] + 1
    redis.call('XADD', dead_letters, 'MAXLEN', '~', dead_limit, '*',
      'queue', KEYS[first_list + queue], 'reason', reason, 'message', envelope)
    return
  end
  local start = direct_room > 0 and start_of(envelope) or nil
  -- None that comes later may overtake one that waits.
  direct_room = start and direct_room - 1 or 0
  local place = start == 'early' and -number or start == 'late' and number + STARTED or number
  if start == 'early' then
    direct[#direct + 1] = envelope
    direct_numbers[#direct_numbers + 1] = number
  else
    if not start then waiting_tags[#waiting_tags + 1] = tag end
    tags[#tags + 1] = tag
    lines[#lines + 1] = place .. ' ' .. tag
    scores[#scores + 1] = score
    scores[#scores + 1] = tag
    fields[#fields + 1] = tag
    fields[#fields + 1] = '[' .. envelope .. ARGV[first_tail + queue]
  end
  reply_with(place, tag, envelope)
end

-- Takes up to so many messages, whatever they are; how many.
local function take(number, want)
  local list = KEYS[first_list + number - 1]
  local popped = redis.pcall('RPOP', list, want) or {}
  if popped.err then
    wrong[#wrong + 1] = list
    return 0
  end
  for _, envelope in ipairs(popped) do
    bytes = bytes - #envelope
    accept(number, envelope)
  end
  return #popped
end

-- Freeing first keeps a Redis that is out of memory drainable: it refuses a script only at its first write.
redis.call('DEL', direct_list)
for step = 0, (#KEYS - first_list + 1) / queues - 1 do
  local pending = {}
  for queue = 1, queues do pending[queue] = step * queues + queue end
  while #pending > 0 and room > 0 and bytes > 0 do
    local share = math.max(1, math.floor(room / #pending))
    local full = {}
    for _, number in ipairs(pending) do
      if room == 0 or bytes <= 0 then break end
      local want, was_early = math.min(share, room), is_early
      local taken
      if is_early then
        taken = take_early(number, want)
      else
        -- Sizes are known only once popped: a few first, then as many of the average size as still fit.
        local fitting = seen == 0 and 16 or math.max(1, math.floor(bytes * seen / (byte_limit - bytes)))
        want = math.min(want, fitting)
        taken = take(number, want)
      end
      seen = seen + taken
      room = room - taken
      if taken == want or was_early ~= is_early then full[#full + 1] = number end
    end
    pending = full
  end
end

if #direct > 0 then redis.call('RPUSH', direct_list, unpack(direct)) end
if #tags > 0 then
  redis.call('HSET', unacked, unpack(fields))
  redis.call('ZADD', index, unpack(scores))
  redis.call('SADD', reserved, unpack(tags))
end
if #waiting_tags > 0 then redis.call('SADD', waiting, unpack(waiting_tags)) end
if #waiting_tags < #tags then redis.call('HSET', state, 'max_crashes', max_crashes) end
if #tags + #direct_numbers > 0 then
  redis.call('HSET', state, 'batch', counter, 'tags', table.concat(lines, '\n'), 'direct', table.concat(direct_numbers, ' '))
  -- Whoever holds messages is known as a worker, so that they are missed when it dies before its next heartbeat.
  redis.call('ZADD', workers, now_ms, worker_id)
end
return reply
