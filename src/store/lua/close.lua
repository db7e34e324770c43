-- close: no machine of the run is left.
--
-- KEYS 1 run hash  2 due  3 tenants
-- ARGV 1 namespace  2 run id  3 attempt  4 moves  5 now, ms  6 hash expires at, ms
--      7 today  8 usage expires at, ms  9 the usual size
-- Answers: { "closed", 1 if some run waits for room else 0 }, { "unknown" }, { "older" },
--      { "refused" }

local ns = ARGV[1]
local run = read(KEYS[1], { 'state', 'attempt', 'app', 'tenant', 'size', 'machine_id', 'booting_at_ms', 'running_at_ms' })
if not run.state then return { 'unknown', 0 } end
if run.attempt ~= ARGV[3] then return { 'older', 0 } end
local to = target(ARGV[4], run.state)
if not to then return { 'refused', 0 } end
redis.call('HSET', KEYS[1], 'state', to, 'closed_at_ms', ARGV[5])
redis.call('PEXPIREAT', KEYS[1], ARGV[6])
redis.call('ZREM', KEYS[2], ARGV[2])
-- Its result may have been faster than the answer that there is a machine.
local since = run.running_at_ms or (run.machine_id and run.booting_at_ms)
meter_machine(ns, ARGV[7], ARGV[8], run.tenant, run.size or ARGV[9], since, ARGV[5])
release_slot(ns, run.app, run.tenant, ARGV[2])
return { to, redis.call('EXISTS', KEYS[3]) }
