-- Message templates (lua/definition.ts) as a call uses them.

local TEMPLATE_FIELDS = 20

local function fields_of(text)
  local fields, from = {}, 1
  while true do
    local at = string.find(text, '\31', from, true)
    if at == nil then
      fields[#fields + 1] = string.sub(text, from)
      return fields
    end
    fields[#fields + 1] = string.sub(text, from, at - 1)
    from = at + 1
  end
end

local function unescaped(name)
  return (string.gsub(name, '%%(%x%x)', function(hex) return string.char(tonumber(hex, 16)) end))
end

-- A template's fields by name, its pieces joined as far as a call knows what goes between them; nil when unreadable.
local function parse_template(text, default_cap)
  local fields = fields_of(text)
  if #fields ~= TEMPLATE_FIELDS then return nil end
  local list, expires, journal = unescaped(fields[1]), fields[5], fields[6]
  local mode = string.sub(journal, 1, 1)
  return {
    -- Neither expiry nor overlap needs to be looked at.
    plain_rules = expires == '' and mode == 'a',
    list = list, pushes = pushes_of(list), queue = queue_of(unescaped(fields[2])), cap = tonumber(fields[3]) or default_cap,
    misfire = fields[4], expires_kind = string.sub(expires, 1, 1), expires = tonumber(string.sub(expires, 2)),
    -- How its runs are followed, nil when they are not, and how long a Celery worker may run one, ms (nil: none may).
    journal = mode ~= 'a' and mode or nil, time_limit = tonumber(string.sub(journal, 2)),
    open = fields[7], to_id = fields[8], to_expires = fields[9], to_root_id = fields[10], to_argsrepr = fields[11],
    to_kwargsrepr = fields[12], to_headers = fields[13], to_schedule = fields[14], to_due = fields[15], to_correlation_id = fields[16],
    to_expiration = fields[17], to_tag = fields[18], close = fields[19],
    unexpiring = fields[9] .. 'null' .. fields[10],
    plain = fields[12] .. '{}' .. fields[13] .. fields[14],
    after_attempt = string.match(fields[16], '^, "run": 0, "attempt": 1(.*)$'),
  }
end
