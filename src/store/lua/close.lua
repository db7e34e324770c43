-- close: no machine of the run is left.
--
-- KEYS 1 run hash  2 due  3 tenants  4 parked
-- ARGV 1 namespace  2 run id  3 attempt  4 nonce ("": none)  5 moves  6 now, ms
--      7 hash expires at, ms  8 today  9 usage expires at, ms  10 the usual size
-- Answers: { "closed", 1 if some run waits for the slot else 0 }, { "unknown" }, { "older" },
--      { "refused" }

local ns = ARGV[1]
local run = read(KEYS[1], { 'state', 'attempt', 'nonce', 'app', 'tenant', 'size', 'machine_id', 'booting_at_ms', 'running_at_ms', 'log_bytes' })
if not run.state then return { 'unknown', 0 } end
if run.attempt ~= ARGV[3] or (run.nonce or '') ~= ARGV[4] then return { 'older', 0 } end
local to = target(ARGV[5], run.state)
if not to then return { 'refused', 0 } end
redis.call('HSET', KEYS[1], 'state', to, 'closed_at_ms', ARGV[6])
redis.call('PEXPIREAT', KEYS[1], ARGV[7])
if run.log_bytes then redis.call('PEXPIREAT', log_key(ns, ARGV[2]), ARGV[7]) end
redis.call('ZREM', KEYS[2], ARGV[2])
-- Its result may have been faster than the answer that there is a machine.
local since = run.running_at_ms or (run.machine_id and run.booting_at_ms)
meter_machine(ns, ARGV[8], ARGV[9], run.tenant, run.size or ARGV[10], since, ARGV[6])
release_slot(ns, run.app, run.tenant, ARGV[2])
local waits = redis.call('EXISTS', KEYS[3]) == 1 or redis.call('ZCOUNT', KEYS[4], '-inf', ARGV[6]) > 0
return { to, waits and 1 or 0 }
