-- renew: a worker still holds these runs: what is owed for them is not overdue before the new
-- lease ends.
--
-- KEYS 1 due
-- ARGV 1 namespace  2 lease until, ms  3 states in which a run is held (",a,b,"), then for each: run
--      id, attempt, and "boot" when its create call may be on its way, else "duty"
-- Answers: the ids that this worker holds no longer (another attempt, or nothing left to do)

local lost = {}
for i = 4, #ARGV, 3 do
  local key = run_key(ARGV[1], ARGV[i])
  local run = read(key, { 'state', 'attempt' })
  if run.attempt == ARGV[i + 1] and is_one_of(run.state, ARGV[3]) then
    redis.call('ZADD', KEYS[1], 'XX', 'GT', ARGV[2], ARGV[i])
    -- Also when the run is settled: nobody may take it for machineless before that call is over.
    if ARGV[i + 2] == 'boot' then redis.call('HSET', key, 'boot_until_ms', ARGV[2]) end
  else
    lost[#lost + 1] = ARGV[i]
  end
end
return lost
