-- reserve: move messages from their queues to unacked, most urgent list first, fair between queues of one urgency.
-- KEYS[1] workers       zset    worker id -> last heartbeat, ms since epoch
-- KEYS[2] state         hash    the worker's: batch (counter last served), tags (that batch, a line each)
-- KEYS[3] reserved      set     delivery tags that the worker holds
-- KEYS[4] unacked       hash    delivery tag -> [envelope, exchange, routing key]
-- KEYS[5] index         zset    delivery tag -> delivered at, s since epoch
-- KEYS[6] dead_letters  stream  elements that are no message
-- KEYS[7...] lists      list    envelopes, newest at the head; all queues at the first step, then all at the next
-- ARGV[1] worker_id     text
-- ARGV[2] counter       int     larger than that of the worker's last answered call; the same again repeats the answer
-- ARGV[3] limit         int     1..1000 messages
-- ARGV[4] byte_limit    int     stop once this many bytes were taken
-- ARGV[5] dead_limit    int     entries that the dead letters keep, about
-- ARGV[6...] tails      text    per queue, what follows the envelope in unacked: `, "", "<queue>"]`
-- Returns               [now_ms, elements that were no message, [lists of another type], list number, tag, envelope, ...]
-- Atomic                a message is in its queue or in unacked, never both, never neither
-- Cost                  O(limit); a handful of commands whatever the limit
--- @include "redis-now"
local workers, state, reserved, unacked, index, dead_letters = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local worker_id, counter = ARGV[1], tonumber(ARGV[2])
local limit, byte_limit, dead_limit = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local first_list, first_tail = 7, 6
local queues = #ARGV - first_tail + 1

local now_ms, now_us = redis_now()
local wrong = {}
local reply = { now_ms, 0, wrong }

local served = tonumber(redis.call('HGET', state, 'batch') or -1)
-- A late copy of a call that was answered long ago: whoever sent it is no longer listening.
if counter < served then return reply end

if counter == served then
  for number, tag in string.gmatch(redis.call('HGET', state, 'tags'), '(%d+) ([^\n]+)') do
    local value = redis.call('SISMEMBER', reserved, tag) == 1 and redis.call('HGET', unacked, tag)
    local envelope = value and string.match(value, '^%[(.*), "[^"]*", "[^"]*"%]$')
    if envelope then
      reply[#reply + 1] = tonumber(number)
      reply[#reply + 1] = tag
      reply[#reply + 1] = envelope
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

local score = string.sub(now_us, 1, -7) .. '.' .. string.sub(now_us, -6)
local tags, lines, scores, fields = {}, {}, {}, {}
local room, bytes, seen = limit, byte_limit, 0

local function accept(number, envelope)
  local tag, reason = tag_of(envelope)
  local queue = (number - 1) % queues
  if not tag then
    reply[2] = reply[2] + 1
    redis.call('XADD', dead_letters, 'MAXLEN', '~', dead_limit, '*',
      'queue', KEYS[first_list + queue], 'reason', reason, 'message', envelope)
    return
  end
  tags[#tags + 1] = tag
  lines[#lines + 1] = number .. ' ' .. tag
  scores[#scores + 1] = score
  scores[#scores + 1] = tag
  fields[#fields + 1] = tag
  fields[#fields + 1] = '[' .. envelope .. ARGV[first_tail + queue]
  reply[#reply + 1] = number
  reply[#reply + 1] = tag
  reply[#reply + 1] = envelope
end

for step = 0, (#KEYS - first_list + 1) / queues - 1 do
  local pending = {}
  for queue = 1, queues do pending[queue] = step * queues + queue end
  while #pending > 0 and room > 0 and bytes > 0 do
    local share = math.max(1, math.floor(room / #pending))
    local full = {}
    for _, number in ipairs(pending) do
      if room == 0 or bytes <= 0 then break end
      -- Sizes are known only once popped: a few first, then as many of the average size as still fit.
      local fitting = seen == 0 and 16 or math.max(1, math.floor(bytes * seen / (byte_limit - bytes)))
      local want = math.min(share, room, fitting)
      local list = KEYS[first_list + number - 1]
      local popped = redis.pcall('RPOP', list, want)
      if popped and popped.err then
        wrong[#wrong + 1] = list
      elseif popped then
        for _, envelope in ipairs(popped) do
          bytes = bytes - #envelope
          accept(number, envelope)
        end
        seen = seen + #popped
        room = room - #popped
        if #popped == want then full[#full + 1] = number end
      end
    end
    pending = full
  end
end

if #tags > 0 then
  redis.call('HSET', unacked, unpack(fields))
  redis.call('ZADD', index, unpack(scores))
  redis.call('SADD', reserved, unpack(tags))
  redis.call('HSET', state, 'batch', counter, 'tags', table.concat(lines, '\n'))
  -- Whoever holds messages is known as a worker, so that they are missed when it dies before its next heartbeat.
  redis.call('ZADD', workers, now_ms, worker_id)
end
return reply
