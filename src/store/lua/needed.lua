-- needed: what each consumer group of the results has not done with. A pending entry that is there
-- no longer (read and deleted, but not acknowledged) is needed by nobody. Only reads.
--
-- KEYS 1 results stream
-- ARGV 1 id before which results are old  2 most pending entries looked at, of each group
-- Answers: for each group { name, id of the last entry it was given, id before which nothing of what
--      it was given is needed ("": nothing of it is), id of the first old entry that it has not
--      been given ("": none) }

if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if not first then return {} end

local groups = {}
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local told, pending, unread = {}, '', ''
  for i = 1, #flat, 2 do told[flat[i]] = flat[i + 1] end
  local last = told['last-delivered-id']
  if told.pending > 0 then
    -- What was trimmed is pending for ever: it is passed over at once. What is not passed over
    -- within the bound is by the next look, when all before it has been trimmed.
    for _, entry in ipairs(redis.call('XPENDING', KEYS[1], told.name, first[1], '+', ARGV[2])) do
      pending = entry[1]
      if redis.call('XRANGE', KEYS[1], pending, pending)[1] then break end
    end
  end
  local old = redis.call('XRANGE', KEYS[1], '(' .. last, '(' .. ARGV[1], 'COUNT', 1)[1]
  if old then unread = old[1] end
  groups[#groups + 1] = { told.name, last, pending, unread }
end
return groups
