-- advance: the machine of an attempt is known.
--
-- KEYS 1 run hash  2 due  3 wakeups
-- ARGV 1 run id  2 attempt  3 nonce ("": none)  4 moves  5 now, ms
--      6.. machine_id, instance_id, region (may be "")
-- Answers: "running" (its deadline is next), "settled" (the result came first; its machine is
--      known now and its tear-down owed at once), "unknown" (no such run), "older" (another
--      attempt, or another request of that id), "refused" (not accepted in the run's state)

local run = read(KEYS[1], { 'state', 'attempt', 'deadline_ms', 'nonce' })
if not run.state then return 'unknown' end
if run.attempt ~= ARGV[2] or (run.nonce or '') ~= ARGV[3] then return 'older' end
local to = target(ARGV[4], run.state)
if not to then return 'refused' end
local known = { 'state', to, 'machine_id', ARGV[6] }
know(known, 'instance_id', ARGV[7])
know(known, 'region', ARGV[8])
if to == 'running' then know(known, 'running_at_ms', ARGV[5]) end
redis.call('HSET', KEYS[1], unpack(known))
if to == 'running' then
  redis.call('ZADD', KEYS[2], run.deadline_ms, ARGV[1])
else
  redis.call('RPUSH', KEYS[3], ARGV[1])
end
return to
