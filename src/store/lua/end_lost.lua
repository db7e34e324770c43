-- end_lost: a run that is due and whose hash is gone ends, with what is known of it. Together: its
-- result is on the results stream, it is in no index any more, and its id is known.
--
-- KEYS 1 run hash  2 due  3 results stream  4 the run's request
-- ARGV 1 namespace  2 run id  3 its tenant as its request says ("": not known)
--      4 its metadata as JSON ("": none)  5 now, ms  6 hash expires at, ms  7 outcome
--      8 reason as JSON  9 today  10 usage expires at, ms
--      11 the result's head  12 its payload  13 its exit
-- Answers: "closed" (its result is published), "over" (it had been before its hash was gone),
--      "refused" (its hash is there), "unknown" (it is due no longer: another was faster)

local ns, id = ARGV[1], ARGV[2]
if redis.call('EXISTS', KEYS[1]) == 1 then return 'refused' end
if redis.call('ZREM', KEYS[2], id) == 0 then return 'unknown' end
local had_result = redis.call('SISMEMBER', owed_key(ns), id) == 1
local _, app, attempt, tenant, nonce = drop_stale_slots(ns, id)
tenant = tenant or (ARGV[3] ~= '' and ARGV[3]) or nil
local bytes = redis.call('STRLEN', KEYS[4])
if bytes > 0 then
  redis.call('DEL', KEYS[4])
  redis.call('DECRBY', backlog_bytes_key(ns), bytes)
end
if tenant then dequeue(ns, tenant, id) end
if had_result then return 'over' end

local run = { tenant = tenant, tries = attempt, settled_at_ms = ARGV[5] }
if ARGV[4] ~= '' then run.metadata = ARGV[4] end
local entry = redis.call('XADD', KEYS[3], '*', 'run_id', id, 'outcome', ARGV[7], 'result', result(run, ARGV[11], ARGV[12], ARGV[13]))
local known = { 'state', 'closed', 'outcome', ARGV[7], 'reason', ARGV[8], 'attempt', attempt or '0',
  'settled_at_ms', ARGV[5], 'closed_at_ms', ARGV[5], 'result_entry', entry }
know(known, 'tenant', tenant or '')
know(known, 'app', app or '')
know(known, 'nonce', nonce or '')
redis.call('HSET', KEYS[1], unpack(known))
redis.call('PEXPIREAT', KEYS[1], ARGV[6])
if tenant then meter(ns, ARGV[9], ARGV[10], tenant, 'runs:' .. ARGV[7], 1) end
note_end(ns, id, run, ARGV[7], ARGV[8], ARGV[6])
return 'closed'
