-- announce: say that this node's journal holds the namespace that is not in Redis, and learn who else says so.
-- KEYS[1] meta            hash    namespace record
-- KEYS[2] tombstone       string  epoch of the namespace that was deleted here last
-- KEYS[3] announcements   hash    node id -> `<first announced at ms>:<last ms>:<text>`; goes when nobody announces
-- KEYS[4] restoring       string  `<until ms>:<node id>` of who fills the absent namespace
-- ARGV[1] node            text    node id
-- ARGV[2] text            text    what the journal holds (scheduler/journal/election.ts); '' takes the announcement back
-- ARGV[3] max_age         int     an announcement that was not repeated for longer, ms, does not count
-- ARGV[4] wake_channel    text    told `members` by the first, so that all nodes look at once
-- Returns                 [now ms, epoch in Redis or '', tombstone or '', who fills it or '', node, since ms, text, ...]
-- Atomic                  nothing is announced once the namespace is there
-- Cost                    O(nodes)
--- @include "redis-now"
local meta, tombstone, announcements, restoring = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local node, text, max_age, wake_channel = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]

local now = redis_now()
local epoch = redis.call('HGET', meta, 'epoch') or ''
local known, stale, mine = {}, {}, nil
local stored = redis.call('HGETALL', announcements)
for i = 1, #stored, 2 do
  local since, at, said = string.match(stored[i + 1], '^(%d+):(%d+):(.*)$')
  if not at or math.abs(now - tonumber(at)) > max_age then
    stale[#stale + 1] = stored[i]
  elseif stored[i] == node then
    mine = tonumber(since)
  else
    known[#known + 1] = { stored[i], tonumber(since), said }
  end
end
local is_first = #known == 0 and not mine
if epoch == '' and text ~= '' then
  mine = mine or now
  redis.call('HSET', announcements, node, string.format('%.0f:%.0f:%s', mine, now, text))
  redis.call('PEXPIRE', announcements, 2 * max_age)
  known[#known + 1] = { node, mine, text }
  if is_first then redis.call('PUBLISH', wake_channel, 'members') end
elseif mine then
  stale[#stale + 1] = node
end
if #stale > 0 then redis.call('HDEL', announcements, unpack(stale)) end

local held_until, holder = string.match(redis.call('GET', restoring) or '', '^(%d+):(.*)$')
if not held_until or tonumber(held_until) < now then holder = '' end
local reply = { now, epoch, redis.call('GET', tombstone) or '', holder }
for _, other in ipairs(known) do
  for _, value in ipairs(other) do reply[#reply + 1] = value end
end
return reply
