-- Removes a template that no definition uses any more.
local function drop_template(templates, template_ids, template_uses, number)
  local text = redis.call('HGET', templates, number)
  if text then redis.call('HDEL', template_ids, redis.sha1hex(text)) end
  redis.call('HDEL', templates, number)
  redis.call('HDEL', template_uses, number)
end
