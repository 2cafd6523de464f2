-- How a message lies in `parked`: `<list>\31<delivery tag>\31<envelope>`, under its task id, and where that is taken under
-- `<task id>\31<number>`. In tag and envelope single bytes that no JSON text contains stand for what need not be kept: 1 for
-- the task id, 2 for the tag, the others for what kombu and Celery write into every message, in its order. A byte's meaning never changes.
local PARKED_TEXTS = {
  { '\20', '{"body": "' },
  -- How the base64 of a body without workflow ends, in each of the three ways in which it may begin there.
  { '\3', 'eyJjYWxsYmFja3MiOiBudWxsLCAiZXJyYmFja3MiOiBudWxsLCAiY2hhaW4iOiBudWxsLCAiY2hvcmQiOiBudWxsfV0=' },
  { '\4', 'siY2FsbGJhY2tzIjogbnVsbCwgImVycmJhY2tzIjogbnVsbCwgImNoYWluIjogbnVsbCwgImNob3JkIjogbnVsbH1d' },
  { '\5', '7ImNhbGxiYWNrcyI6IG51bGwsICJlcnJiYWNrcyI6IG51bGwsICJjaGFpbiI6IG51bGwsICJjaG9yZCI6IG51bGx9XQ==' },
  { '\6', '", "content-encoding": "utf-8", "content-type": "application/json", "headers": {"lang": "py", "task": "' },
  { '\7', '", "id": "\1", "shadow": null, "eta": "' },
  {
    '\19', '", "expires": null, "group": null, "group_index": null, "retries": 0, "timelimit": [null, null], "root_id": "\1", '
      .. '"parent_id": null, "argsrepr": "',
  },
  -- Parts of the last one, for messages that have another value in between.
  { '\8', ', "group": null, "group_index": null, "retries": ' },
  { '\11', ', "timelimit": [null, null], "root_id": "\1", "parent_id": null, "argsrepr": "' },
  { '\12', '", "kwargsrepr": "{}", "origin": "' },
  { '\14', '", "ignore_result": false' },
  { '\15', ', "replaced_task_nesting": 0, "stamped_headers": null, "stamps": {}' },
  { '\16', '}, "properties": {"correlation_id": "\1", "reply_to": "' },
  { '\17', '", "delivery_mode": 2, "delivery_info": {"exchange": "", "routing_key": "' },
  { '\18', '"}, "priority": 0, "body_encoding": "base64", "delivery_tag": "' },
}

local function replace_all(text, what, by)
  local first, last = string.find(text, what, 1, true)
  if not first then return text end
  local parts, from = {}, 1
  while first do
    parts[#parts + 1] = string.sub(text, from, first - 1)
    from = last + 1
    first, last = string.find(text, what, from, true)
  end
  parts[#parts + 1] = string.sub(text, from)
  return table.concat(parts, by)
end

-- Puts the second of each pair for the first, or the other way round. Each occurs once, and they come in this order: to write
-- the whole message anew for each, or to look at every byte of it, would take longer than all else.
local function exchange_texts(text, given, wanted)
  local parts, from = {}, 1
  for _, pair in ipairs(PARKED_TEXTS) do
    local first, last = string.find(text, pair[given], from, true)
    if first then
      local n = #parts
      parts[n + 1], parts[n + 2] = string.sub(text, from, first - 1), pair[wanted]
      from = last + 1
    end
  end
  parts[#parts + 1] = string.sub(text, from)
  return table.concat(parts)
end

-- Parks a message, beside whatever else is parked under its id: a retry, or a message that somebody gave the same id. One
-- with the same tag is the same message, and is there already.
local function put_parked(extra, parked, id, tag, eta_ms, list, envelope)
  local packed = replace_all(envelope, id, '\1')
  local packed_tag = tag == id and '\1' or tag
  if tag ~= id then packed = replace_all(packed, tag, '\2') end
  packed = exchange_texts(packed, 2, 1)
  local value, member, copies = list .. '\31' .. packed_tag .. '\31' .. packed, id, 0
  while redis.call('HSETNX', parked, member, value) == 0 do
    if string.match(redis.call('HGET', parked, member), '^[^\31]+\31([^\31]*)\31') == packed_tag then return end
    copies = copies + 1
    member = id .. '\31' .. copies
  end
  redis.call('ZADD', extra, eta_ms, member)
end

-- List, envelope and delivery tag of a parked message; nil when it is unreadable.
local function parked_message(member, value)
  local list, tag, packed = string.match(value, '^([^\31]+)\31([^\31]*)\31(.*)$')
  if not list then return nil, nil, nil end
  local id = string.match(member, '^[^\31]*')
  if tag == '\1' then tag = id end
  local envelope = replace_all(exchange_texts(packed, 1, 2), '\1', id)
  return list, replace_all(envelope, '\2', tag), tag
end
