-- requeue: a boot came to nothing; the run waits for another. It keeps the number of that boot, so
-- that the next has a new one.
--
-- KEYS 1 run hash  2 due  3 the run's request
-- ARGV 1 namespace  2 run id  3 attempt  4 nonce ("": none)  5 moves  6 ready at, ms (0: now)
--      7 due at, ms  8 hash expires at, ms  9 now, ms  10 why: "refused" and "held" (the boot is
--      deferred and does not count as a try; a refusal is counted), "failed" (its machine failed:
--      the refusals that were counted are forgotten)  11 today  12 usage expires at, ms
--      13 the usual size
-- Answers: "queued", "unknown", "older", "refused"

local ns, id = ARGV[1], ARGV[2]
local run = read(KEYS[1], { 'state', 'attempt', 'nonce', 'tenant', 'place', 'app', 'size', 'booting_at_ms', 'running_at_ms', 'machine_id', 'past' })
if not run.state then return 'unknown' end
if run.attempt ~= ARGV[3] or (run.nonce or '') ~= ARGV[4] then return 'older' end
local to = target(ARGV[5], run.state)
if not to then return 'refused' end
-- What this boot was stays known, of the last ten.
local is_read, past = pcall(cjson.decode, run.past or '[]')
if not is_read then past = {} end
past[#past + 1] = { attempt = tonumber(run.attempt), app = run.app or '', machine = run.machine_id or '', why = ARGV[10],
  booting_at_ms = tonumber(run.booting_at_ms), running_at_ms = tonumber(run.running_at_ms), ended_at_ms = tonumber(ARGV[9]) }
if #past > 10 then table.remove(past, 1) end
redis.call('HSET', KEYS[1], 'state', to, 'past', cjson.encode(past))
redis.call('HDEL', KEYS[1], 'machine_id', 'instance_id', 'region', 'running_at_ms', 'deadline_ms', 'boot_until_ms',
  'preparing_until_ms', 'prepared_by_ms')
if ARGV[10] == 'failed' then
  redis.call('HDEL', KEYS[1], 'refusals', 'refused_since_ms')
  meter_machine(ns, ARGV[11], ARGV[12], run.tenant, run.size or ARGV[13], run.running_at_ms, ARGV[9])
else
  redis.call('HINCRBY', KEYS[1], 'deferred', 1)
end
if ARGV[10] == 'refused' then
  redis.call('HINCRBY', KEYS[1], 'refusals', 1)
  redis.call('HSETNX', KEYS[1], 'refused_since_ms', ARGV[9])
end
redis.call('PEXPIREAT', KEYS[1], ARGV[8])
redis.call('PEXPIREAT', KEYS[3], ARGV[8])
release_slot(ns, run.app, run.tenant, id)
redis.call('ZADD', KEYS[2], ARGV[7], id)
if ARGV[6] == '0' then
  enqueue(ns, run.tenant, { run.place, id })
else
  delay(ns, run.tenant, id, ARGV[6])
end
return to
