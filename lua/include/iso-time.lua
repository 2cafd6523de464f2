-- 2026-11-21T03:49:26.392000+00:00: six fraction digits, the one form that Celery 5.2 and newer read alike.
-- Redis's Lua has no os.date; days to civil date as in https://howardhinnant.github.io/date_algorithms.html.
local iso_second, iso_prefix
local function iso_time(ms)
  local floor = math.floor
  local second = floor(ms / 1000)
  if second ~= iso_second then
    local days, rest = floor(second / 86400) + 719468, second % 86400
    local era = floor(days / 146097)
    local day_of_era = days - era * 146097
    local year = floor((day_of_era - floor(day_of_era / 1460) + floor(day_of_era / 36524) - floor(day_of_era / 146096)) / 365)
    local day_of_year = day_of_era - (365 * year + floor(year / 4) - floor(year / 100))
    local month = floor((5 * day_of_year + 2) / 153)
    local day = day_of_year - floor((153 * month + 2) / 5) + 1
    month = month < 10 and month + 3 or month - 9
    year = year + era * 400 + (month <= 2 and 1 or 0)
    iso_second = second
    iso_prefix = string.format('%04d-%02d-%02dT%02d:%02d:%02d.', year, month, day, floor(rest / 3600), floor(rest / 60) % 60, rest % 60)
  end
  return iso_prefix .. string.format('%03d', ms % 1000) .. '000+00:00'
end
