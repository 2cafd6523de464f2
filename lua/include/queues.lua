-- The queues that a call fills.

local queues = {}
-- A queue as this call finds it: how many messages it holds with those of this call, false when one of its keys is no list.
local function queue_of(name)
  local queue = queues[name]
  if queue == nil then
    local length = 0
    for _, step in ipairs({ '', '\6\0223', '\6\0226', '\6\0229' }) do
      local one = redis.pcall('LLEN', name .. step)
      length = length and type(one) == 'number' and length + one
    end
    queue = { name = name, length = length }
    queues[name] = queue
  end
  return queue
end

local all_pushes, pushes_by_list = {}, {}
-- What this call pushes to a list, oldest first.
local function pushes_of(list)
  local pushes = pushes_by_list[list]
  if pushes == nil then
    pushes = { list = list, n = 0 }
    pushes_by_list[list] = pushes
    all_pushes[#all_pushes + 1] = pushes
  end
  return pushes
end

local function push(pushes, queue, message)
  local n = pushes.n + 1
  pushes.n, pushes[n] = n, message
  queue.length = queue.length + 1
end

local function write_pushes()
  for _, pushes in ipairs(all_pushes) do
    if pushes.n > 0 then redis.call('LPUSH', pushes.list, unpack(pushes, 1, pushes.n)) end
  end
end
