-- settle: the run ends. Together: the token is spent, the state changes, the result is on the
-- results stream, the tear-down is owed, the end is in the indexes of ended runs.
--
-- KEYS 1 run hash  2 due  3 wakeups  4 results stream  5 the run's request
-- ARGV 1 namespace  2 run id  3 attempt ("": whichever it is)  4 nonce ("": none)  5 moves
--      6 now, ms  7 hash expires at, ms  8 tear-down due at, ms  9 outcome
--      10 reason as JSON ("": none)  11 digest of the posted body ("": not posted)  12 today
--      13 usage expires at, ms  14 the result's head  15 its payload  16 its exit, and for a post:
--      17 most bytes of results kept (0: any number)  18 the same of one tenant without a limit of its
--      own  19 length of a slice in which they are counted, ms  20 how long a tenant's are known, ms
--      21 outcome, 22 reason and 23 head when there is no room for its payload  24 when the post began, ms
--      ("": not kept)  25 "1" to keep the request also if the run completed
-- Answers: "settled" (a tear-down is owed), "over_budget" (settled too, but without the payload; also for
--      the same body again), "closed" (there was no machine), "repeated" (the same
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
  if ARGV[11] ~= '' and run.digest == ARGV[11] then
    return redis.call('HGET', KEYS[1], 'outcome') == ARGV[9] and 'repeated' or 'over_budget'
  end
  return 'over'
end

run.settled_at_ms = ARGV[6]
run.tries = tostring(run.attempt - (run.deferred or 0))
local outcome, reason, head, payload = ARGV[9], ARGV[10], ARGV[14], ARGV[15]
local kept, kept_of = kept_key(ns), kept_of_key(ns, run.tenant)
local most, tenant_most, slice = tonumber(ARGV[17] or '0'), tonumber(ARGV[18] or '0'), tonumber(ARGV[19])
local is_over = false
if ARGV[17] then
  tenant_most = tonumber(redis.call('HGET', settings_key(ns, run.tenant), 'results_bytes') or tenant_most)
  if most > 0 or tenant_most > 0 then
    local now = tonumber(ARGV[6])
    local begins = slice_of(now, slice)
    local bytes, from = kept_bytes(kept, begins, nil, slice)
    is_over = most > 0 and bytes + #payload > most
    if tenant_most > 0 then
      is_over = kept_bytes(kept_of, begins, from, slice, ARGV[20]) + #payload > tenant_most or is_over
    end
    if is_over then outcome, reason, head, payload = ARGV[21], ARGV[22], ARGV[23], 'null' end
  end
end
local json = result(run, head, payload, ARGV[16])
local entry = redis.call('XADD', KEYS[4], '*', 'run_id', id, 'outcome', outcome, 'result', json)
if most > 0 then redis.call('HINCRBY', kept, 'sum', #json) end
if tenant_most > 0 then redis.call('HINCRBY', kept_of, 'sum', #json) end
local known = { 'state', to, 'outcome', outcome, 'settled_at_ms', ARGV[6], 'result_entry', entry }
know(known, 'reason', reason)
know(known, 'digest', ARGV[11])
know(known, 'posted_at_ms', ARGV[24] or '')
if to == 'closed' then know(known, 'closed_at_ms', ARGV[6]) end
redis.call('HSET', KEYS[1], unpack(known))
release_request(ns, id, KEYS[5], run.request_bytes, run.tenant, outcome, tonumber(ARGV[6]), ARGV[7], ARGV[25] == '1')
if run.request_bytes then redis.call('DECRBY', backlog_bytes_key(ns), run.request_bytes) end
redis.call('PEXPIREAT', KEYS[1], ARGV[7])
meter(ns, ARGV[12], ARGV[13], run.tenant, 'runs:' .. outcome, 1)
note_end(ns, id, run, outcome, reason, ARGV[7])
if to == 'closed' then
  -- PARTS OF THIS BRANCH
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
    wakeup = table.concat({ id, run.attempt, run.nonce or '', outcome, ARGV[6], run.app, run.machine_id, run.instance_id,
      run.instance_id and run.running_at_ms }, ' ')
  end
  redis.call('RPUSH', KEYS[3], wakeup)
end
return is_over and 'over_budget' or to
