-- finish-chord: send the body of a chord whose parts are all there, or record that it cannot run; once.
-- KEYS[1] chords        hash    group id -> what follows the chord, of those whose body is yet to be sent
-- KEYS[2] dead_letters  stream  messages that were given up
-- KEYS[3] meta          hash    the namespace's record
-- ARGV[1] group_id      text    of the chord
-- ARGV[2] token         text    who sends it; of the worker that counted the last part, or of one that found it left over
-- ARGV[3] outcome       text    `sent`; `failed`: what is known of its parts stays
-- ARGV[4] expires       int     s that results are kept; 0: for ever
-- ARGV[5] dead_limit    int     entries that the dead letters keep, about
-- ARGV[6] shards        int     how many shards the caller believes the namespace has; 0: nothing can be parked
-- ARGV[7...] actions    text    in fives: kind and four texts (lua/include/actions.lua, or `chord`: chord-part.lua)
-- Returns               [1, or 0 when another sends it or it was sent before: then nothing is done; position of an action (from 1)
--                       whose part completed another chord, ...]
-- Atomic                a chord's keys are gone exactly when its body is sent
-- Cost                  O(actions)
--- @include "redis-now"
--- @include "is-success"
--- @include "shard-keys"
--- @include "parked"
--- @include "actions"
--- @include "chord-part"
local chords, dead_letters, meta = KEYS[1], KEYS[2], KEYS[3]
local group_id, token, outcome = ARGV[1], ARGV[2], ARGV[3]
local expires, dead_limit, shards = tonumber(ARGV[4]), ARGV[5], ARGV[6]
local first_action, ACTION, DONE_SEC = 7, 5, 300

local group = 'celery-taskset-meta-' .. group_id
redis.call('HLEN', chords)
redis.call('XLEN', dead_letters)
if not hold_chord(group, token) then
  if redis.call('EXISTS', group .. '.s') == 0 then redis.call('HDEL', chords, group_id) end
  return { 0 }
end
local actions = open_actions({
  expires = expires,
  dead_letters = dead_letters,
  dead_limit = dead_limit,
  now_ms = redis_now(),
  has_shards = shards ~= '0' and redis.call('HGET', meta, 'shards') == shards,
})
redis.call('HDEL', chords, group_id)
if outcome == 'sent' then
  redis.call('DEL', group .. '.j', group .. '.t', group .. '.s', group .. '.d')
else
  redis.call('DEL', group .. '.s')
end
-- A part that comes late does not begin it anew.
redis.call('SET', group .. '.c', 'done', 'EX', DONE_SEC)
local reply = { 1 }
for at = first_action, #ARGV, ACTION do
  local kind, first, second, third, fourth = unpack(ARGV, at, at + ACTION - 1)
  if kind ~= 'chord' then
    actions.by_kind[kind](first, second, third, fourth)
  elseif count_part(chords, token, expires, first, second, third, fourth) then
    reply[#reply + 1] = (at - first_action) / ACTION + 1
  end
end
return reply
