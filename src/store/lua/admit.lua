-- admit: requests become queued runs, or, when they broke a rule, closed ones with their results.
-- Creates a run only if its id is not known, and acknowledges the request either way: from here on
-- its fate is durable.
--
-- KEYS 1 requests stream  2 due  3 results stream
-- ARGV 1 namespace  2 group  3 most runs waiting, all together (0: no limit)
--      4 most runs waiting, one tenant (0: no limit)  5 today  6 usage expires at, ms
--      7 number of requests, and then for each of them:
--      run id, entry id ("": none), tenant, state to enter (queued, closed), hash expires at, ms,
--      due at, ms, ready at, ms (0: now), priority (0 to 9), the request's JSON,
--      number n of field/value words, then the n words, and for a closed run the result's head,
--      payload and exit
-- Answers, for each request: "admitted", "known" (the id is taken; nothing changed), "full" and
--      "tenant_full" (as many runs wait as may; nothing changed, not even the request)

local ns, at = ARGV[1], 8
local answers, taken, due = {}, {}, {}

-- Tenants, each looked up once: its limit, how many runs of it wait, the places of the new ones.
local seen, tenants = {}, {}
local function look(tenant)
  local own = seen[tenant]
  if own then return own end
  own = { places = {} }
  own.most = tonumber(redis.call('HGET', ns .. ':settings:' .. tenant, 'backlog_max') or ARGV[4])
  if own.most > 0 then
    own.waiting = redis.call('ZCARD', ns .. ':queue:' .. tenant) + redis.call('ZCARD', ns .. ':delayed:' .. tenant)
  end
  seen[tenant], tenants[#tenants + 1] = own, tenant
  return own
end

-- Which limit on waiting runs is reached, if one is. What is in flight is looked at only when it
-- matters.
local most, open, flying = tonumber(ARGV[3]), redis.call('ZCARD', KEYS[2]), nil
local function crowded(own)
  if own.most > 0 and own.waiting >= own.most then return 'tenant_full' end
  if most > 0 and open >= most then
    flying = flying or in_flight(ns)
    if open - flying >= most then return 'full' end
  end
end

local last
local bytes, was_empty = 0, open == 0
local function queue(own, tenant, id)
  last = last and last + 1 or redis.call('INCRBY', ns .. ':seq', ARGV[7]) - ARGV[7] + 1
  -- Priority first, then first in, first out.
  local place = string.format('%d', tonumber(ARGV[at + 7]) * PER_PRIORITY + last)
  if ARGV[at + 6] == '0' then
    own.places[#own.places + 1] = place
    own.places[#own.places + 1] = id
  else
    delay(ns, tenant, id, ARGV[at + 6])
  end
  if own.waiting then own.waiting = own.waiting + 1 end
  open = open + 1
  bytes = bytes + #ARGV[at + 8]
  due[#due + 1] = ARGV[at + 5]
  due[#due + 1] = id
  -- Beside the hash, which stays small enough for Redis's compact form.
  redis.call('SET', ns .. ':request:' .. id, ARGV[at + 8], 'PXAT', ARGV[at + 4])
  return place
end

while at <= #ARGV do
  local id, tenant, state, n = ARGV[at], ARGV[at + 2], ARGV[at + 3], tonumber(ARGV[at + 9])
  local key, words_end, answer = ns .. ':run:' .. id, at + 9 + n, 'known'
  if redis.call('EXISTS', key) == 0 then
    local own = state == 'queued' and look(tenant)
    answer = own and crowded(own) or 'admitted'
    if answer == 'admitted' then
      local words = { 'state', state, 'attempt', '0', 'tenant', tenant, unpack(ARGV, at + 10, words_end) }
      if own then
        words[#words + 1] = 'place'
        words[#words + 1] = queue(own, tenant, id)
        words[#words + 1] = 'request_bytes'
        words[#words + 1] = #ARGV[at + 8]
      end
      redis.call('HSET', key, unpack(words))
      redis.call('PEXPIREAT', key, ARGV[at + 4])
      if state == 'closed' then
        local run = read(key, { 'outcome', 'tenant', 'metadata', 'submitted_at_ms', 'settled_at_ms' })
        run.tries = '0'
        local json = result(run, ARGV[words_end + 1], ARGV[words_end + 2], ARGV[words_end + 3])
        local entry = redis.call('XADD', KEYS[3], '*', 'run_id', id, 'outcome', run.outcome, 'result', json)
        redis.call('HSET', key, 'result_entry', entry)
        meter(ns, ARGV[5], ARGV[6], tenant, 'runs:' .. run.outcome, 1)
      end
    end
  end
  answers[#answers + 1] = answer
  if (answer == 'known' or answer == 'admitted') and ARGV[at + 1] ~= '' then taken[#taken + 1] = ARGV[at + 1] end
  at = words_end + (state == 'closed' and 4 or 1)
end

if due[1] then redis.call('ZADD', KEYS[2], unpack(due)) end
-- With no run open what is counted can be no other than this: so that no loss is carried on.
if bytes > 0 then redis.call(was_empty and 'SET' or 'INCRBY', ns .. ':backlog_bytes', bytes) end
for _, tenant in ipairs(tenants) do
  if seen[tenant].places[1] then enqueue(ns, tenant, seen[tenant].places) end
end
if taken[1] then
  redis.call('XACK', KEYS[1], ARGV[2], unpack(taken))
  redis.call('XDEL', KEYS[1], unpack(taken))
end
return answers
