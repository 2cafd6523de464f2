-- Counts uses of a shared text up or down; the text goes with its last use.
local function count_uses(key, number, by)
  if redis.call('HINCRBY', key.template_uses, number, by) > 0 then return end
  local text = redis.call('HGET', key.templates, number)
  if text then redis.call('HDEL', key.template_ids, redis.sha1hex(text)) end
  redis.call('HDEL', key.templates, number)
  redis.call('HDEL', key.template_uses, number)
  redis.call('HDEL', key.times, number)
  redis.call('ZREM', key.refills, number)
end

-- Counts, into `uses`, what a definition shares with others: its template, calendar and exclusion.
local function add_uses(uses, number, timing, by)
  uses[number] = (uses[number] or 0) + by
  local calendar, exclusion = string.match(timing, '^[cC](%d+)'), string.match(timing, ';x(%d+)')
  if calendar then uses[calendar] = (uses[calendar] or 0) + by end
  if exclusion then uses[exclusion] = (uses[exclusion] or 0) + by end
end
