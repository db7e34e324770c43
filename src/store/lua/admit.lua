-- admit: a request becomes a queued run, or, when it broke a rule, a closed one with its result.
-- Creates the run only if its id is not known, and acknowledges the request either way: from here
-- on its fate is durable.
--
-- KEYS 1 run hash  2 requests stream  3 due  4 results stream  5 the run's request
-- ARGV 1 namespace  2 run id  3 group  4 entry id  5 tenant  6 state to enter (queued, closed)
--      7 hash expires at, ms  8 due at, ms  9 ready at, ms (0: now)  10 priority (0 to 9)
--      11 the request's JSON  12 most runs waiting, all together (0: no limit)
--      13 most runs waiting, one tenant (0: no limit)  14 today  15 usage expires at, ms
--      16 number n of field/value words, then the n words, then the pieces of the result's JSON
-- Answers: "admitted", "known" (the id is taken; nothing changed), "full" and "tenant_full" (as
--      many runs wait as may; nothing changed, not even the request)

local ns, id, tenant = ARGV[1], ARGV[2], ARGV[5]

-- Which limit on waiting runs is reached, if one is.
local function crowded()
  local most = tonumber(redis.call('HGET', ns .. ':settings:' .. tenant, 'backlog_max') or ARGV[13])
  if most > 0 then
    local waiting = redis.call('ZCARD', ns .. ':queue:' .. tenant) + redis.call('ZCARD', ns .. ':delayed:' .. tenant)
    if waiting >= most then return 'tenant_full' end
  end
  most = tonumber(ARGV[12])
  if most > 0 then
    -- What is in flight is looked at only when it matters.
    local open = redis.call('ZCARD', KEYS[3])
    if open >= most and open - in_flight(ns) >= most then return 'full' end
  end
end

local answer = 'known'
if redis.call('EXISTS', KEYS[1]) == 0 then
  if ARGV[6] == 'queued' then
    local limit = crowded()
    if limit then return limit end
  end
  answer = 'admitted'
  local words, n = { 'state', ARGV[6], 'attempt', '0', 'tenant', tenant }, tonumber(ARGV[16])
  for i = 17, 16 + n do words[#words + 1] = ARGV[i] end
  if ARGV[6] == 'queued' then
    -- Priority first, then first in, first out.
    local place = score(tonumber(ARGV[10]) * PER_PRIORITY + redis.call('INCR', ns .. ':seq'))
    words[#words + 1] = 'place'
    words[#words + 1] = place
    if ARGV[9] == '0' then
      enqueue(ns, tenant, id, place)
    else
      delay(ns, tenant, id, ARGV[9])
    end
    redis.call('ZADD', KEYS[3], ARGV[8], id)
    -- Beside the hash, which stays small enough for Redis's compact form.
    redis.call('SET', KEYS[5], ARGV[11], 'PXAT', ARGV[7])
  end
  redis.call('HSET', KEYS[1], unpack(words))
  redis.call('PEXPIREAT', KEYS[1], ARGV[7])
  if ARGV[6] == 'closed' then
    local run = read(KEYS[1], { 'outcome', 'tenant', 'metadata', 'submitted_at_ms', 'settled_at_ms' })
    run.tries = '0'
    local entry = redis.call('XADD', KEYS[4], '*', 'run_id', id, 'outcome', run.outcome, 'result', fill(run, 17 + n))
    redis.call('HSET', KEYS[1], 'result_entry', entry)
    meter(ns, ARGV[14], ARGV[15], tenant, 'runs:' .. run.outcome, 1)
  end
end
if ARGV[4] ~= '' then
  redis.call('XACK', KEYS[2], ARGV[3], ARGV[4])
  redis.call('XDEL', KEYS[2], ARGV[4])
end
return answer
