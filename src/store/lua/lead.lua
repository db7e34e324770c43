-- lead: one holder at a time for the sweep; and what tells a worker whether there is anything to do.
--
-- KEYS 1 the lease  2 due  3 requests  4 orders
-- ARGV 1 who  2 for how long, ms  3 the workers' group
-- Answers: { 1 if the caller holds it now, 0 if somebody else does; when the first open run is due, ms
--      ("": no run is open); 1 if the group has read entries that nobody has disposed of, else 0 }

local holder = redis.call('GET', KEYS[1])
local leads = 0
if not holder or holder == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  leads = 1
end
local first = redis.pcall('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
local pending = 0
for i = 3, 4 do
  -- Without the group there is nothing.
  local found = redis.pcall('XPENDING', KEYS[i], ARGV[3])
  if found[1] and found[1] > 0 then pending = 1 end
end
return { leads, first[2] or '', pending }
