-- lead: one holder at a time for the sweep.
--
-- KEYS 1 the lease
-- ARGV 1 who  2 for how long, ms
-- Answers: 1 if the caller holds it now, 0 if somebody else does

local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
