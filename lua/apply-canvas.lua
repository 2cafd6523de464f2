-- apply-canvas: send the messages of a workflow, with what its chords need to be known before.
-- KEYS[1] meta          hash    the namespace's record
-- KEYS[2] request       string  what was answered to this request, kept 10 minutes
-- KEYS[3] dead_letters  stream  messages that were given up
-- Queue lists are not passed: where they are elsewhere, this is another script.
-- ARGV[1] epoch         text    of the namespace, as the caller knows it
-- ARGV[2] cap           int     most messages in a queue
-- ARGV[3] expires       int     s that the sizes of chords are kept; 0: for ever
-- ARGV[4] dead_limit    int     entries that the dead letters keep, about
-- ARGV[5] shards        int     how many shards the namespace has
-- ARGV[6] queue_count   int     queues that get messages at once
-- ARGV[7...] entries    text    queue and how many messages it gets, in twos; then actions in fives: kind and four texts
--                               (lua/include/actions.lua)
-- Returns               `t` sent, now or by an earlier call; `f<queue>` at its cap, or `w<queue>` no list: then nothing is sent
-- Errors                NAMESPACE_GONE
-- Atomic                all messages are sent, or none
-- Cost                  O(actions), about 4 us each
--- @include "redis-now"
--- @include "is-success"
--- @include "shard-keys"
--- @include "parked"
--- @include "queues"
--- @include "actions"
local meta, request, dead_letters = KEYS[1], KEYS[2], KEYS[3]
local epoch, cap, expires = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local dead_limit, shards, queue_count = ARGV[4], ARGV[5], tonumber(ARGV[6])
local first_entry, QUEUE, ACTION, KEPT_MS = 7, 2, 5, 600000

if redis.call('HGET', meta, 'epoch') ~= epoch then return redis.error_reply('NAMESPACE_GONE') end
redis.call('XLEN', dead_letters)
local answered = redis.call('GET', request)
if answered then return answered end

local first_action = first_entry + queue_count * QUEUE
for at = first_entry, first_action - 1, QUEUE do
  local queue = queue_of(ARGV[at])
  if not queue.length then return 'w' .. ARGV[at] end
  if queue.length + tonumber(ARGV[at + 1]) > cap then return 'f' .. ARGV[at] end
end

-- The first write is one that Redis refuses when memory is full.
redis.call('SET', request, 't', 'PX', KEPT_MS)
local actions = open_actions({
  expires = expires,
  dead_letters = dead_letters,
  dead_limit = dead_limit,
  now_ms = redis_now(),
  has_shards = redis.call('HGET', meta, 'shards') == shards,
})
for at = first_action, #ARGV, ACTION do
  local kind, first, second, third, fourth = unpack(ARGV, at, at + ACTION - 1)
  actions.by_kind[kind](first, second, third, fourth)
end
return 't'
