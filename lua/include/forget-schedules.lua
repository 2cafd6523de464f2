-- Removes schedules with everything that is only theirs. A run in flight goes on as an ordinary message.
local function forget_schedules(key, ids, stored)
  local uses = {}
  for i, id in ipairs(ids) do
    if stored[i] then
      local number, timing = string.match(stored[i], '^([^\31]*)\31[^\31]*\31([^\31]*)')
      if number then add_uses(uses, number, timing, -1) end
    end
    local flight = redis.call('HGET', key.journal, id)
    if flight then redis.call('HDEL', key.flights, string.match(flight, '^[^\31]*')) end
    redis.call('DEL', key.prefix .. 'backlog:' .. id)
    redis.call('ZREM', key.extra, '\31' .. id)
  end
  for _, name in ipairs({ 'due', 'claims', 'completed', 'deadlines', 'missed' }) do redis.call('ZREM', key[name], unpack(ids)) end
  for _, name in ipairs({ 'definitions', 'last', 'runs', 'journal', 'held', 'failures', 'missed_ranges', 'dropped' }) do
    redis.call('HDEL', key[name], unpack(ids))
  end
  for number, by in pairs(uses) do count_uses(key, number, by) end
end
