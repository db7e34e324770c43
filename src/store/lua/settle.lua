-- settle: the run ends. Together: the token is spent, the state changes, the result is on the
-- results stream, the tear-down is owed.
--
-- KEYS 1 run hash  2 due  3 wakeups  4 results stream  5 the run's request
-- ARGV 1 namespace  2 run id  3 attempt ("": whichever it is)  4 nonce ("": none)  5 moves
--      6 now, ms  7 hash expires at, ms  8 tear-down due at, ms  9 outcome
--      10 reason as JSON ("": none)  11 digest of the posted body ("": not posted)  12 today
--      13 usage expires at, ms  14 the result's head  15 its payload  16 its exit
-- Answers: "settled" (a tear-down is owed), "closed" (there was no machine), "repeated" (the same
--      body was accepted before), "over" (the run has ended otherwise), "older" (another attempt, or
--      another request of that id), "refused" (not accepted in the run's state), "unknown"

local ns, id = ARGV[1], ARGV[2]
local run = read(KEYS[1], { 'state', 'attempt', 'digest', 'tenant', 'metadata', 'app', 'machine_id', 'instance_id', 'region',
  'submitted_at_ms', 'booting_at_ms', 'running_at_ms', 'deferred', 'request_bytes', 'nonce' })
if not run.state then return 'unknown' end
if ARGV[3] ~= '' and (run.attempt ~= ARGV[3] or (run.nonce or '') ~= ARGV[4]) then return 'older' end
local to = target(ARGV[5], run.state)
if not to then
  if run.state ~= 'settled' and run.state ~= 'closed' then return 'refused' end
  if ARGV[11] ~= '' and run.digest == ARGV[11] then return 'repeated' end
  return 'over'
end

run.settled_at_ms = ARGV[6]
run.tries = tostring(run.attempt - (run.deferred or 0))
local entry = redis.call('XADD', KEYS[4], '*', 'run_id', id, 'outcome', ARGV[9], 'result', result(run, ARGV[14], ARGV[15], ARGV[16]))
local known = { 'state', to, 'outcome', ARGV[9], 'settled_at_ms', ARGV[6], 'result_entry', entry }
know(known, 'reason', ARGV[10])
know(known, 'digest', ARGV[11])
if to == 'closed' then know(known, 'closed_at_ms', ARGV[6]) end
redis.call('HSET', KEYS[1], unpack(known))
-- The request can be large and has done its work.
redis.call('DEL', KEYS[5])
if run.request_bytes then redis.call('DECRBY', backlog_bytes_key(ns), run.request_bytes) end
redis.call('PEXPIREAT', KEYS[1], ARGV[7])
meter(ns, ARGV[12], ARGV[13], run.tenant, 'runs:' .. ARGV[9], 1)
if to == 'closed' then
  redis.call('ZREM', KEYS[2], id)
  if run.state == 'booting' then
    release_slot(ns, run.app, run.tenant, id)
  else
    dequeue(ns, run.tenant, id)
  end
else
  redis.call('ZADD', KEYS[2], ARGV[8], id)
  redis.call('SADD', owed_key(ns), id)
  -- A wakeup carries what a tear-down needs, so that the run need not be read. Before its machine is
  -- known it carries the id alone.
  local wakeup = id
  if run.machine_id then
    wakeup = table.concat({ id, run.attempt, run.nonce or '', ARGV[9], ARGV[6], run.app, run.machine_id, run.instance_id,
      run.instance_id and run.running_at_ms }, ' ')
  end
  redis.call('RPUSH', KEYS[3], wakeup)
end
return to
