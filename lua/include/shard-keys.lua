-- The keys of a shard by name, made when first asked for: `key.template_ids` is `rb:{3}:template-ids` (lua/keys.ts).
local function shard_keys(due_key)
  local prefix = string.sub(due_key, 1, -4)
  return setmetatable({ prefix = prefix }, {
    __index = function(keys, name)
      local key = prefix .. string.gsub(name, '_', '-')
      keys[name] = key
      return key
    end,
  })
end
