-- prioritise: a waiting run gets another priority, and the same place among those of it.
--
-- KEYS 1 run hash
-- ARGV 1 namespace  2 run id  3 priority (0 to 9)  4 states that wait (",a,")
-- Answers: "done", "unknown" (no such run), "refused" (it does not wait any more)

local ns, id = ARGV[1], ARGV[2]
local run = read(KEYS[1], { 'state', 'tenant', 'place' })
if not run.state then return 'unknown' end
if not is_one_of(run.state, ARGV[4]) or not run.place then return 'refused' end
local place = string.format('%d', tonumber(ARGV[3]) * PER_PRIORITY + tonumber(run.place) % PER_PRIORITY)
redis.call('HSET', KEYS[1], 'place', place)
-- One that is delayed joins its queue at that place.
redis.call('ZADD', queue_key(ns, run.tenant), 'XX', place, id)
return 'done'
