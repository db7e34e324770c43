-- close: no machine of the run is left.
--
-- KEYS 1 run hash  2 due  3 tenants
-- ARGV 1 namespace  2 run id  3 attempt  4 moves  5 now, ms  6 hash expires at, ms
--      7 when the machine started, ms ("": not known)
-- Answers: { "closed", 1 if some run waits for room else 0 }, { "unknown" }, { "older" },
--      { "refused" }

local run = read(KEYS[1], { 'state', 'attempt', 'app' })
if not run.state then return { 'unknown', 0 } end
if run.attempt ~= ARGV[3] then return { 'older', 0 } end
local to = target(ARGV[4], run.state)
if not to then return { 'refused', 0 } end
redis.call('HSET', KEYS[1], 'state', to, 'closed_at_ms', ARGV[5])
if ARGV[7] ~= '' then redis.call('HSET', KEYS[1], 'started_at_ms', ARGV[7]) end
redis.call('PEXPIREAT', KEYS[1], ARGV[6])
redis.call('ZREM', KEYS[2], ARGV[2])
land(ARGV[1], run.app, ARGV[2])
return { to, redis.call('EXISTS', KEYS[3]) }
