-- finish-restore: put the record of a restored namespace back, with which it is there again.
-- KEYS[1] meta            hash    namespace record
-- KEYS[2] tombstone       string  epoch of the namespace that was deleted here last
-- KEYS[3] announcements   hash    what nodes said of their journals; not needed any more
-- KEYS[4] restoring       string  `<until ms>:<node id>` of who fills the absent namespace
-- KEYS[5] recovery        hash    bucket of missed runs: none wait any more
-- ARGV[1] node            text    who restores
-- ARGV[2] wake_channel    text    told `members`, so that all nodes join at once
-- ARGV[3..] field, value  text    of meta
-- Returns                 1
-- Errors                  RESTORE_TAKEN when another took over meanwhile, or the namespace is there
-- Atomic                  nobody sees the namespace before all of it is there
-- Cost                    5 commands
local meta, tombstone, announcements, restoring, recovery = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local node, wake_channel = ARGV[1], ARGV[2]

local fields = { unpack(ARGV, 3) }
local holder = string.match(redis.call('GET', restoring) or '', '^%d+:(.*)$')
if holder ~= node or redis.call('EXISTS', meta) == 1 then
  -- The same call again, whose answer was lost.
  local restored = redis.call('HMGET', meta, 'epoch', 'restores')
  local given = {}
  for i = 1, #fields, 2 do given[fields[i]] = fields[i + 1] end
  if not holder and restored[1] == given.epoch and restored[2] == given.restores then return 1 end
  return redis.error_reply('RESTORE_TAKEN')
end
redis.call('HSET', meta, unpack(fields))
redis.call('DEL', restoring, announcements, tombstone, recovery)
redis.call('PUBLISH', wake_channel, 'members')
return 1
