-- put-schedules: create or update schedules of one shard.
-- KEYS[1] meta            hash    namespace record
-- KEYS[2] due_set         zset    schedule id -> next due time and last lateness
-- KEYS[3] definitions     hash    schedule id -> definition
-- KEYS[4] templates       hash    number -> template
-- KEYS[5] template_ids    hash    SHA1 of a template -> its number
-- KEYS[6] template_uses   hash    number -> definitions that use it
-- KEYS[7] counts          hash    totals; `templates` is the highest number given out
-- KEYS[8] last            hash    schedule id -> due:lateness of the last run
-- KEYS[9] completed       zset    finished one-shots
-- KEYS[10] request        string  only to create: id that the request created, kept 10 minutes
-- ARGV[1] epoch           text    of the namespace, as the caller knows it
-- ARGV[2] namespace       text
-- ARGV[3] mode            text    upsert, create (refuses what exists), or the SHA1 of the definition to replace (refuses any other)
-- ARGV[4] wake_channel    text    told when the shard's head moved to within a second from now
-- ARGV[5] shard           int
-- ARGV[6] template_count  int     followed by that many templates
-- then five per schedule  text    id, which template (from 1), timing, end ms or '', rest of the definition (lua/definition.ts)
-- Returns                 a letter per schedule: c created, u updated, n unchanged, x refused by the mode
-- Errors                  NAMESPACE_GONE
-- Atomic                  each schedule is stored whole with its due time, template use and wake-up
-- Cost                    O(schedules), about 4 us each; at most 500 a call
--- @include "redis-now"
--- @include "next-run"
--- @include "drop-template"
local meta, due_set, definitions, templates = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local template_ids, template_uses, counts = KEYS[5], KEYS[6], KEYS[7]
local last, completed, request = KEYS[8], KEYS[9], KEYS[10]
local epoch, namespace, mode, wake_channel, shard = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local template_count = tonumber(ARGV[6])

if redis.call('HGET', meta, 'epoch') ~= epoch then return redis.error_reply('NAMESPACE_GONE') end

local now, generation = redis_now()
local entries = {}
for i = 7 + template_count, #ARGV, 5 do
  entries[#entries + 1] = {
    id = ARGV[i], template = tonumber(ARGV[i + 1]), timing = ARGV[i + 2], finish = ARGV[i + 3], rest = ARGV[i + 4],
  }
end
local ids = {}
for i, entry in ipairs(entries) do ids[i] = entry.id end
if #ids == 0 then return '' end

local stored = redis.call('HMGET', definitions, unpack(ids))
local scores = redis.call('ZMSCORE', due_set, unpack(ids))
local head = redis.call('ZRANGE', due_set, 0, 0, 'WITHSCORES')
local head_due = head[2] and tonumber(head[2]) or math.huge

-- Number of the request's n-th template; a new one gets the next number that was never given out.
local numbers, new_templates, numbered = {}, {}, 0
local function number_of(n)
  if numbers[n] == nil then
    local text = ARGV[6 + n]
    local sha = redis.sha1hex(text)
    local number = redis.call('HGET', template_ids, sha)
    if number and redis.call('HEXISTS', templates, number) == 0 then
      new_templates[#new_templates + 1] = { number, sha, text }
    elseif not number then
      numbered = numbered + 1
      number = tostring((tonumber(redis.call('HGET', counts, 'templates')) or 0) + numbered)
      new_templates[#new_templates + 1] = { number, sha, text }
    end
    numbers[n] = number
  end
  return numbers[n]
end

-- A timing as it will be stored: `in` and `now` become instants, counted from this moment.
local function resolved(timing)
  timing = string.gsub(timing, '^([oO]):(%d+):', function(kind, delay)
    return string.format('%s%.0f:%s:', kind, now + tonumber(delay), delay)
  end)
  return (string.gsub(timing, '^([eE])(%d+):n:', function(kind, interval)
    return string.format('%s%s:n%.0f:', kind, interval, now % tonumber(interval))
  end))
end

-- The first three groups of the task ids that a generation beginning now gives (lua/definition.ts).
local function new_seed(id)
  local hash = redis.sha1hex(namespace .. '\31' .. id .. '\31' .. generation)
  return string.sub(hash, 1, 8) .. '-' .. string.sub(hash, 9, 12) .. '-8' .. string.sub(hash, 13, 15) .. '-'
end

-- Whether a stored timing is what this spec asks for, instants that were resolved at registration aside.
local function same_timing(wanted, held)
  wanted, held = string.lower(string.sub(wanted, 1, 1)) .. string.sub(wanted, 2), string.lower(string.sub(held, 1, 1)) .. string.sub(held, 2)
  if string.find(wanted, '^o:') then held = string.gsub(held, '^o%d+:', 'o:') end
  if string.find(wanted, '^e%d+:n:') then held = string.gsub(held, '^(e%d+):n%d+:', '%1:n:') end
  return wanted == held
end

local outcomes = {}
local new_definitions, new_due, not_due, done, not_done, told, uses, use_order = {}, {}, {}, {}, {}, {}, {}, {}
local earliest = math.huge

local function count_use(number, by)
  if uses[number] == nil then
    uses[number] = 0
    use_order[#use_order + 1] = number
  end
  uses[number] = uses[number] + by
end

local function schedule_at(id, due, code)
  new_due[#new_due + 1] = string.format('%.17g', due + code / 2048)
  new_due[#new_due + 1] = id
  not_done[#not_done + 1] = id
  earliest = math.min(earliest, due)
end

local function complete(id, timing, was_due)
  if was_due then not_due[#not_due + 1] = id end
  if string.find(timing, '^[oO]') then
    done[#done + 1] = string.format('%.0f', now)
    done[#done + 1] = id
  end
end

for i, entry in ipairs(entries) do
  local id, old, score = entry.id, stored[i], tonumber(scores[i] or nil)
  local enabled = string.find(entry.timing, '^%l') ~= nil
  local finish = tonumber(entry.finish)
  local number = number_of(entry.template)
  local old_number, seed, old_timing, old_finish, old_rest =
    string.match(old or '', '^([^\31]*)\31([^\31]*)\31([^\31]*)\31([^\31]*)\31(.*)$')
  if mode == 'create' and redis.call('GET', request) == id then
    -- Also when the schedule was deleted since: a request that is sent again does nothing again.
    outcomes[i] = 'c'
  elseif mode == 'create' and old then
    outcomes[i] = 'x'
  elseif mode ~= 'upsert' and mode ~= 'create' and (not old or redis.sha1hex(old) ~= mode) then
    outcomes[i] = 'x'
  elseif not old_timing then
    -- New, or unreadable, which putting it again repairs.
    local timing = resolved(entry.timing)
    new_definitions[#new_definitions + 1] = id
    new_definitions[#new_definitions + 1] = table.concat({ number, new_seed(id), timing, entry.finish, entry.rest }, '\31')
    count_use(number, 1)
    if enabled then
      -- The moment of registration itself is a grid point of phase `now`; an instant in the past is a missed run.
      local floor = string.find(timing, '^o') and -1 or now - 1
      local due = first_due(id, timing, finish, floor)
      if due then schedule_at(id, due, 0) else complete(id, timing, false) end
    end
    outcomes[i] = 'c'
  else
    local was_enabled = string.find(old_timing, '^%l') ~= nil
    local keeps_timing = same_timing(entry.timing, old_timing)
    local timing = old_timing
    if not keeps_timing then
      timing = resolved(entry.timing)
      seed = new_seed(id)
    end
    timing = (enabled and string.lower or string.upper)(string.sub(timing, 1, 1)) .. string.sub(timing, 2)
    -- An interval schedule that is due nowhere went to the dead letters: putting it again repairs it.
    local is_astray = enabled and was_enabled and not score and string.find(timing, '^e')
      and first_due(id, timing, finish, now) ~= nil
    local is_same = number == old_number and entry.finish == old_finish and entry.rest == old_rest
    if is_same and keeps_timing and enabled == was_enabled and not is_astray then
      outcomes[i] = 'n'
    else
      outcomes[i] = 'u'
      new_definitions[#new_definitions + 1] = id
      new_definitions[#new_definitions + 1] = table.concat({ number, seed, timing, entry.finish, entry.rest }, '\31')
      if number ~= old_number then
        count_use(number, 1)
        count_use(old_number, -1)
      end
      local last_due, lateness
      if score then
        last_due, lateness = last_run(id, old_timing, score, last)
      else
        last_due, lateness = last_run(id, old_timing, 0, last)
      end
      if not enabled then
        if score then
          not_due[#not_due + 1] = id
          if last_due then told[#told + 1] = id; told[#told + 1] = string.format('%.0f:%.0f', last_due, lateness) end
        end
      elseif keeps_timing and score then
        -- Still on its grid; only a new end can take its next run away. A one-shot that a queue cap holds is due at its own time.
        local due = tonumber(string.match(timing, '^o(%d+)')) or math.floor(score)
        if finish and due >= finish then
          complete(id, timing, true)
          if last_due then told[#told + 1] = id; told[#told + 1] = string.format('%.0f:%.0f', last_due, lateness) end
        end
      elseif is_astray or not keeps_timing or not was_enabled or entry.finish ~= old_finish then
        -- A new timing of phase `now` begins with this moment, any other goes on after it.
        local floor = (not keeps_timing and string.find(timing, '^e%d+:n')) and now - 1 or now
        local due = first_due(id, timing, finish, math.max(floor, last_due or 0))
        if due then schedule_at(id, due, 0) else complete(id, timing, score ~= nil) end
        if last_due then told[#told + 1] = id; told[#told + 1] = string.format('%.0f:%.0f', last_due, lateness) end
      end
    end
  end
end

if #new_definitions == 0 then return table.concat(outcomes) end

-- HSET first: Redis refuses it when memory is full, before anything was written.
redis.call('HSET', definitions, unpack(new_definitions))
if #new_due > 0 then redis.call('ZADD', due_set, unpack(new_due)) end
if #not_due > 0 then redis.call('ZREM', due_set, unpack(not_due)) end
if #not_done > 0 then redis.call('ZREM', completed, unpack(not_done)) end
if #done > 0 then redis.call('ZADD', completed, 'NX', unpack(done)) end
if #told > 0 then redis.call('HSET', last, unpack(told)) end
for _, template in ipairs(new_templates) do
  redis.call('HSET', templates, template[1], template[3])
  redis.call('HSET', template_ids, template[2], template[1])
end
if numbered > 0 then redis.call('HINCRBY', counts, 'templates', numbered) end
for _, number in ipairs(use_order) do
  if redis.call('HINCRBY', template_uses, number, uses[number]) <= 0 then
    drop_template(templates, template_ids, template_uses, number)
  end
end
if mode == 'create' and outcomes[1] == 'c' then redis.call('SET', request, ids[1], 'PX', 600000) end
if earliest < head_due and earliest < now + 1000 then
  redis.call('PUBLISH', wake_channel, shard .. ':' .. string.format('%.0f', earliest))
end
return table.concat(outcomes)
