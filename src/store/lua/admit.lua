-- admit: a request becomes a queued run, or, when it broke a rule, a closed one with its result.
-- Creates the run only if its id is not known, and acknowledges the request either way: from here
-- on its fate is durable.
--
-- KEYS 1 run hash  2 requests stream  3 due  4 results stream
-- ARGV 1 namespace  2 run id  3 group  4 entry id  5 tenant  6 state to enter (queued, closed)
--      7 hash expires at, ms  8 due at, ms  9 ready at, ms (0: now)  10 priority (0 to 9)
--      11 number n of field/value words, then the n words, then the pieces of the result's JSON
-- Answers: "admitted", "known" (the id is taken; nothing changed)

local ns, id, tenant = ARGV[1], ARGV[2], ARGV[5]
local answer = 'known'
if redis.call('EXISTS', KEYS[1]) == 0 then
  answer = 'admitted'
  local words, n = { 'state', ARGV[6], 'attempt', '0', 'tenant', tenant }, tonumber(ARGV[11])
  for i = 12, 11 + n do words[#words + 1] = ARGV[i] end
  if ARGV[6] == 'queued' then
    -- Priority first, then first in, first out: 49 bits count the requests of a namespace's life.
    local place = tonumber(ARGV[10]) * 562949953421312 + redis.call('INCR', ns .. ':seq')
    place = string.format('%.17g', place)
    words[#words + 1] = 'place'
    words[#words + 1] = place
    if ARGV[9] == '0' then
      enqueue(ns, tenant, id, place)
    else
      redis.call('ZADD', ns .. ':delayed', ARGV[9], id)
    end
    redis.call('ZADD', KEYS[3], ARGV[8], id)
  end
  redis.call('HSET', KEYS[1], unpack(words))
  redis.call('PEXPIREAT', KEYS[1], ARGV[7])
  if ARGV[6] == 'closed' then
    local run = read(KEYS[1], { 'outcome', 'tenant', 'metadata', 'submitted_at_ms', 'settled_at_ms' })
    run.tries = '0'
    local entry = redis.call('XADD', KEYS[4], '*', 'run_id', id, 'outcome', run.outcome, 'result', fill(run, 12 + n))
    redis.call('HSET', KEYS[1], 'result_entry', entry)
  end
end
if ARGV[4] ~= '' then
  redis.call('XACK', KEYS[2], ARGV[3], ARGV[4])
  redis.call('XDEL', KEYS[2], ARGV[4])
end
return answer
