-- Whether a result record is one of success, which Celery never overwrites.
local function is_success(record)
  if not record then return false end
  local status = string.match(record, '^{"status": "(%u+)"')
  if status then return status == 'SUCCESS' end
  local ok, decoded = pcall(cjson.decode, record)
  return ok and type(decoded) == 'table' and decoded.status == 'SUCCESS'
end
