-- Takes a message off unacked, and off what its holder keeps of it. Whether the holder held it, and whether its task had not started.
local function release(unacked, index, reserved, waiting, tag)
  redis.call('HDEL', unacked, tag)
  redis.call('ZREM', index, tag)
  return redis.call('SREM', reserved, tag) == 1, redis.call('SREM', waiting, tag) == 1
end
