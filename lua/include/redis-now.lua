-- Redis TIME: whole ms since epoch, and the microseconds as text (no two moments that matter share them).
local function redis_now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000), string.format('%s%06d', time[1], time[2])
end
