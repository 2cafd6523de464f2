-- replay-message: push a message that was given up to its queue again.
-- KEYS[1] meta          hash    the namespace's record
-- KEYS[2] dead_letters  stream  that the letter lies in
-- Queue lists are not passed: where they are elsewhere, this is another script.
-- ARGV[1] epoch         text    of the namespace, as the caller knows it
-- ARGV[2] entry         text    id of the letter in its stream
-- ARGV[3] list          text    to push to
-- ARGV[4] queue_name    text    whose list that is
-- ARGV[5] cap           int     most messages in a queue
-- ARGV[6] envelope      text    the message, with a delivery tag of its own
-- Returns               replayed; gone when the letter is not there (any more); full when the queue is; wrong when one of the queue's
--                       keys is no list
-- Errors                NAMESPACE_GONE
-- Atomic                the message is in its queue exactly when the letter is gone
-- Cost                  about 8 commands
--- @include "queues"
local meta, dead_letters = KEYS[1], KEYS[2]
local epoch, entry, list, queue_name, cap, envelope = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6]

if redis.call('HGET', meta, 'epoch') ~= epoch then return redis.error_reply('NAMESPACE_GONE') end
if #redis.call('XRANGE', dead_letters, entry, entry) == 0 then return 'gone' end
local queue = queue_of(queue_name)
if not queue.length then return 'wrong' end
if queue.length >= cap then return 'full' end
push(pushes_of(list), queue, envelope)
write_pushes()
redis.call('XDEL', dead_letters, entry)
return 'replayed'
