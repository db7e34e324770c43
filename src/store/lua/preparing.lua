-- preparing: a sweep saw that the machines of these runs are being prepared.
--
-- KEYS 1 due (only for its slot)
-- ARGV 1 namespace  2 until when that is taken to go on, ms  3 states in which a run waits for its
--      machine (",a,"), then for each: run id, attempt, and by when it must be over, ms
-- Answers: how many of them are so; the others are at another attempt, or in another state

local noted = 0
for i = 4, #ARGV, 3 do
  local key = run_key(ARGV[1], ARGV[i])
  local run = read(key, { 'state', 'attempt' })
  if is_one_of(run.state, ARGV[3]) and run.attempt == ARGV[i + 1] then
    redis.call('HSET', key, 'preparing_until_ms', ARGV[2], 'prepared_by_ms', ARGV[i + 2])
    noted = noted + 1
  end
end
return noted
