-- sweep-shard: the owner's housekeeping, once a second: move the lateness histogram to the history, and remove one-shots
-- that completed long enough ago.
-- KEYS[1] meta            hash    namespace record
-- KEYS[2] lateness        string  histogram of what was dispatched since the last sweep
-- KEYS[3] history         stream  one entry per sweep with something in it
-- KEYS[4] completed       zset    finished one-shots, by completion time
-- KEYS[5] definitions     hash    schedule id -> definition
-- KEYS[6] last            hash    schedule id -> due:lateness of the last run
-- KEYS[7] templates       hash    number -> template
-- KEYS[8] template_ids    hash    SHA1 of a template -> its number
-- KEYS[9] template_uses   hash    number -> definitions that use it
-- KEYS[10] due_set        zset    schedule id -> next due time
-- ARGV[1] epoch           text    of the namespace, as the caller knows it
-- ARGV[2] keep_completed  int     how long a completed one-shot is kept, ms
-- ARGV[3] keep_history    int     entries of the history
-- ARGV[4] limit           int     1..500 one-shots removed in this call
-- Returns                 one-shots removed; call again at once when it equals the limit
-- Errors                  NAMESPACE_GONE
-- Cost                    2 commands when there is nothing to do
--- @include "redis-now"
--- @include "drop-template"
local meta, lateness, history, completed, definitions = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local last, templates, template_ids, template_uses, due_set = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local epoch, keep_completed, keep_history, limit = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

if redis.call('HGET', meta, 'epoch') ~= epoch then return redis.error_reply('NAMESPACE_GONE') end

local now = redis_now()
local histogram = redis.call('GET', lateness)
local old = redis.call('ZRANGEBYSCORE', completed, '-inf', now - keep_completed, 'LIMIT', 0, limit)
local stored = #old > 0 and redis.call('HMGET', definitions, unpack(old))
local scores = #old > 0 and redis.call('ZMSCORE', due_set, unpack(old))

-- Removing comes first: Redis allows it when memory is full, and with it the rest of the script, which frees some.
if histogram then
  redis.call('DEL', lateness)
  redis.call('XADD', history, 'MAXLEN', keep_history, '*', 'at', string.format('%.0f', now), 'lateness', histogram)
end
if #old > 0 then
  redis.call('ZREM', completed, unpack(old))
  for i, id in ipairs(old) do
    local number = stored[i] and not scores[i] and string.match(stored[i], '^([^\31]*)')
    if number and redis.call('HINCRBY', template_uses, number, -1) <= 0 then
      drop_template(templates, template_ids, template_uses, number)
    end
    if number then
      redis.call('HDEL', definitions, id)
      redis.call('HDEL', last, id)
    end
  end
end
return #old
