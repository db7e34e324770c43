-- mend: what is known of some runs is made to agree with their hashes, which are the truth. Finds
-- nothing to do unless somebody changed keys by hand, or Redis lost some.
--
-- KEYS 1 due
-- ARGV 1 namespace  2 now, ms  3 states with a machine in flight (",a,b,")  4 states that wait
--      (",a,")  5 the tenant among whose machines in flight the runs are ("": not known)
--      6… run ids
-- Answers: how many things were not as they should be

local ns, mended = ARGV[1], 0

for i = 6, #ARGV do
  local id = ARGV[i]
  local run = read(run_key(ns, id), { 'state', 'tenant', 'app', 'attempt', 'place', 'queue_until_ms', 'nonce' })
  -- A hash that lacks what we always write is not ours: nothing is known of that run, and the
  -- others go on.
  local flies = run.tenant and run.app and is_one_of(run.state, ARGV[3])
  local waits = run.tenant and run.place and is_one_of(run.state, ARGV[4])
  local owed_end = false
  if flies then
    local who = redis.call('HGET', inflight_key(ns, run.app), id)
    local is_busy = redis.call('SISMEMBER', busy_key(ns, run.tenant), id) == 1
    if who ~= slot_value(run.attempt, run.tenant, run.nonce) or not is_busy then
      drop_stale_slots(ns, id)
      redis.call('SADD', apps_key(ns), run.app)
      take_slot(ns, run.app, run.tenant, id, run.attempt, run.nonce)
      if run.state == 'settled' then redis.call('SADD', owed_key(ns), id) end
      mended = mended + 1
    end
  elseif not run.state and redis.call('ZSCORE', KEYS[1], id) and redis.call('EXISTS', run_key(ns, id)) == 0 then
    -- Its end is owed, for which what is known of it stays.
    mended = mended + redis.call('ZADD', KEYS[1], 'LT', 'CH', ARGV[2], id)
    owed_end = true
  else
    mended = mended + drop_stale_slots(ns, id)
  end
  if not owed_end and ARGV[5] ~= '' and not (flies and run.tenant == ARGV[5]) then
    if redis.call('SREM', busy_key(ns, ARGV[5]), id) == 1 then
      mended = mended + 1
      unpark(ns, ARGV[5])
    end
  end
  if waits then
    local queued = redis.call('ZSCORE', queue_key(ns, run.tenant), id)
    if not queued and not redis.call('ZSCORE', delayed_of_key(ns, run.tenant), id) then
      mended = mended + 1
      queued = true
    end
    -- Also puts the tenant among those that may go.
    if queued then enqueue(ns, run.tenant, { run.place, id }) end
  end
  if (flies or waits) and not redis.call('ZSCORE', KEYS[1], id) then
    mended = mended + 1
    redis.call('ZADD', KEYS[1], waits and run.queue_until_ms or ARGV[2], id)
  end
end
return mended
