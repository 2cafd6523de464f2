-- push-tasks: push the tasks of a request to their queues.
-- KEYS[1] meta        hash    the namespace's record
-- KEYS[2] request     string  a bit for each entry of the request that was taken, kept 10 minutes
-- Queue lists are not passed: where they are elsewhere, this is another script.
-- ARGV[1] epoch       text    of the namespace, as the caller knows it
-- ARGV[2] cap         int     most messages in a queue
-- ARGV[3...] entries  text    in fours: position in the request; list; queue; envelope
-- Returns             a letter per entry: t taken, now or by an earlier call; f its queue is at the cap; w one of its keys is no list
-- Errors              NAMESPACE_GONE
-- Atomic              an entry is in its queue exactly when the request remembers it
-- Cost                O(entries), about 4 us each; at most 500
--- @include "queues"
local meta, request = KEYS[1], KEYS[2]
local epoch, cap = ARGV[1], tonumber(ARGV[2])
local first_entry, KEPT_MS = 3, 600000

if redis.call('HGET', meta, 'epoch') ~= epoch then return redis.error_reply('NAMESPACE_GONE') end

local reply, taken = {}, {}
for at = first_entry, #ARGV, 4 do
  local position, list, queue = ARGV[at], ARGV[at + 1], queue_of(ARGV[at + 2])
  local letter = 't'
  if redis.call('GETBIT', request, position) == 0 then
    if not queue.length then
      letter = 'w'
    elseif queue.length >= cap then
      letter = 'f'
    else
      push(pushes_of(list), queue, ARGV[at + 3])
      taken[#taken + 1] = position
    end
  end
  reply[#reply + 1] = letter
end

-- The first write is one that Redis refuses when memory is full.
for _, position in ipairs(taken) do redis.call('SETBIT', request, position, 1) end
if #taken > 0 then redis.call('PEXPIRE', request, KEPT_MS) end
write_pushes()
return table.concat(reply)
