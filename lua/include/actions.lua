-- What a call does beside ending messages: each action is a kind and four texts (lua/actions.ts).
-- Needs: is-success, shard-keys, parked.

-- The actions by kind, and what they are made of. `context`: expires (s, 0: for ever), dead_letters (key), dead_limit, now_ms,
-- has_shards (whether messages can be parked).
local function open_actions(context)
  local actions = {}
  -- A number would be turned into text for each value.
  local lifetime = context.expires > 0 and string.format('%d', context.expires)

  -- A value that is kept as long as results and published under its key.
  function actions.store(key, value)
    if lifetime then
      redis.call('SETEX', key, lifetime, value)
    else
      redis.call('SET', key, value)
    end
    redis.call('PUBLISH', key, value)
  end

  function actions.keep_dead(queue, reason, message)
    redis.call('XADD', context.dead_letters, 'MAXLEN', '~', context.dead_limit, '*', 'queue', queue, 'reason', reason,
      'message', message)
  end

  -- To the end that is taken last (LPUSH) or next (RPUSH). By now nothing may fail any more.
  function actions.push_message(command, list, envelope)
    local pushed = redis.pcall(command, list, envelope)
    if type(pushed) == 'table' and pushed.err then
      actions.keep_dead(list, 'its queue is a key of another type', envelope)
    end
  end

  actions.by_kind = {
    -- list, envelope, '', ''
    push = function(list, envelope) actions.push_message('LPUSH', list, envelope) end,

    -- `<eta ms>:<due key of its shard, '' when unknown>`, `<task id>\31<tag>`, list, envelope
    park = function(place, names, list, envelope)
      local eta_ms, due_key = string.match(place, '^(%d+):(.*)$')
      local namespace, shard = string.match(due_key, '^(.*):{(%d+)}:due$')
      if not context.has_shards or not shard then return actions.push_message('LPUSH', list, envelope) end
      local id, parked_tag = string.match(names, '^(.*)\31(.*)$')
      local key = shard_keys(due_key)
      put_parked(key.extra, key.parked, id, parked_tag, tonumber(eta_ms), list, envelope)
      if tonumber(eta_ms) < context.now_ms + 1000 then
        redis.call('PUBLISH', namespace .. ':wake', shard .. ':' .. eta_ms)
      end
    end,

    -- list, reason, envelope, ''
    dead = function(list, reason, envelope) actions.keep_dead(list, reason, envelope) end,

    -- key, record of another task, '', ''
    record = function(key, record)
      if not is_success(redis.call('GET', key)) then actions.store(key, record) end
    end,

    -- key, value, '', ''
    set = function(key, value) actions.store(key, value) end,

    -- what the keys of a chord begin with, '', '', ''. It gets one part more.
    grow = function(group) redis.pcall('INCRBY', group .. '.t', 1) end,

    -- what the keys of a chord begin with, how many parts it has, '', ''. It is sent anew: an earlier end is forgotten.
    size = function(group, size)
      redis.call('DEL', group .. '.c')
      actions.store(group .. '.s', size)
    end,
  }
  return actions
end
