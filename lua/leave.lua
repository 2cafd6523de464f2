-- leave: take a beat node out of the ring at once, instead of when its lease ends.
-- KEYS[1] nodes           zset    node id -> Redis time of its last heartbeat, ms
-- KEYS[2] node_info       hash    node id -> JSON of what the API shows
-- ARGV[1] node            text    node id
-- ARGV[2] wake_channel    text    told `members`
-- Returns                 1, or 0 when it was gone already
-- Cost                    3 commands
local nodes, node_info = KEYS[1], KEYS[2]
local node, wake_channel = ARGV[1], ARGV[2]

redis.call('HDEL', node_info, node)
local left = redis.call('ZREM', nodes, node)
redis.call('PUBLISH', wake_channel, 'members')
return left
