-- requeue: a boot came to nothing and no machine of it is left; the run waits for another.
--
-- KEYS 1 run hash  2 due  3 the run's request
-- ARGV 1 namespace  2 run id  3 attempt  4 moves  5 attempt to write  6 ready at, ms (0: now)
--      7 due at, ms  8 hash expires at, ms  9 now, ms  10 why: "refused" (counted), "held" (not
--      counted), "failed" (its machine failed: what was counted is forgotten)
--      11 today  12 usage expires at, ms  13 the usual size
-- Answers: "queued", "unknown", "older", "refused"

local ns, id = ARGV[1], ARGV[2]
local run = read(KEYS[1], { 'state', 'attempt', 'tenant', 'place', 'app', 'size', 'running_at_ms' })
if not run.state then return 'unknown' end
if run.attempt ~= ARGV[3] then return 'older' end
local to = target(ARGV[4], run.state)
if not to then return 'refused' end
redis.call('HSET', KEYS[1], 'state', to, 'attempt', ARGV[5])
redis.call('HDEL', KEYS[1], 'machine_id', 'instance_id', 'region', 'running_at_ms', 'deadline_ms', 'boot_until_ms')
if ARGV[10] == 'refused' then
  redis.call('HINCRBY', KEYS[1], 'refusals', 1)
  redis.call('HSETNX', KEYS[1], 'refused_since_ms', ARGV[9])
elseif ARGV[10] == 'failed' then
  redis.call('HDEL', KEYS[1], 'refusals', 'refused_since_ms')
  meter_machine(ns, ARGV[11], ARGV[12], run.tenant, run.size or ARGV[13], run.running_at_ms, ARGV[9])
end
redis.call('PEXPIREAT', KEYS[1], ARGV[8])
redis.call('PEXPIREAT', KEYS[3], ARGV[8])
land(ns, run.app, run.tenant, id)
redis.call('ZADD', KEYS[2], ARGV[7], id)
if ARGV[6] == '0' then
  enqueue(ns, run.tenant, id, run.place)
else
  delay(ns, run.tenant, id, ARGV[6])
end
return to
