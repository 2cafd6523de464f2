-- Which of the 512 counters of a lateness histogram (lua/lateness.ts) counts this many ms.
local function lateness_bucket(ms)
  if ms < 256 then return math.max(math.floor(ms), 0) end
  return math.min(256 + math.floor(math.log(ms / 256) / math.log(2) * 16), 511)
end
