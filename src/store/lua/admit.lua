-- admit: requests become queued runs, or, when they broke a rule, closed ones with their results.
-- Creates a run only if its id is not known, and acknowledges the request either way: from here on
-- its fate is durable.
--
-- The request itself stays here: it is copied from its entry, and does not travel again.
--
-- KEYS 1 requests stream  2 due  3 results stream  4 dead stream
-- ARGV 1 namespace  2 group  3 most runs waiting, all together (0: no limit)
--      4 most runs waiting, one tenant (0: no limit)  5 today  6 usage expires at, ms
--      7 dead entries kept  8 words kept of such an entry  9 number of requests, and then for each:
--      run id, entry id, tenant, digest of the request, state to enter (queued, closed), hash
--      expires at, ms, due at, ms, ready at, ms (0: now), priority (0 to 9),
--      number n of field/value words, then the n words, and for a closed run the result's head,
--      payload and exit
-- Answers, for each request: "admitted", "known" (it is a run already, or its entry is gone;
--      nothing changed), "taken" (its id is that of another request, which has become a run; it is
--      set aside as dead), "full" and "tenant_full" (as many runs wait as may; nothing changed, not
--      even the request)

local ns, at = ARGV[1], 10
local answers, taken, due = {}, {}, {}

-- A tenant's limit, how many runs of it wait, and the places of the new ones; read once.
local seen, tenants = {}, {}
local function limits_of(tenant)
  local own = seen[tenant]
  if own then return own end
  own = { places = {} }
  own.most = tonumber(redis.call('HGET', settings_key(ns, tenant), 'backlog_max') or ARGV[4])
  if own.most > 0 then
    own.waiting = redis.call('ZCARD', queue_key(ns, tenant)) + redis.call('ZCARD', delayed_of_key(ns, tenant))
  end
  seen[tenant], tenants[#tenants + 1] = own, tenant
  return own
end

-- Which limit on waiting runs is reached, if one is. What is in flight is counted only when it matters.
local most, open, flying = tonumber(ARGV[3]), redis.call('ZCARD', KEYS[2]), nil
local function limit_reached(own)
  if own.most > 0 and own.waiting >= own.most then return 'tenant_full' end
  if most > 0 and open >= most then
    flying = flying or in_flight(ns)
    if open - flying >= most then return 'full' end
  end
end

local last
local bytes, was_empty = 0, open == 0
local function queue(own, tenant, id, request)
  last = last and last + 1 or redis.call('INCRBY', seq_key(ns), ARGV[9]) - ARGV[9] + 1
  -- Priority first, then first in, first out.
  local place = string.format('%d', tonumber(ARGV[at + 8]) * PER_PRIORITY + last)
  if ARGV[at + 7] == '0' then
    own.places[#own.places + 1] = place
    own.places[#own.places + 1] = id
  else
    delay(ns, tenant, id, ARGV[at + 7])
  end
  if own.waiting then own.waiting = own.waiting + 1 end
  open = open + 1
  bytes = bytes + #request
  due[#due + 1] = ARGV[at + 6]
  due[#due + 1] = id
  -- Beside the hash, which stays small enough for Redis's compact encoding.
  redis.call('SET', request_key(ns, id), request, 'PXAT', ARGV[at + 5])
  return place
end

-- The JSON of an entry, as the worker that judged it read it: its first field `run`.
local function request_of(entry)
  local found = redis.call('XRANGE', KEYS[1], entry, entry)[1]
  if not found then return nil end
  for i = 1, #found[2], 2 do
    if found[2][i] == 'run' then return found[2][i + 1] end
  end
end

-- Whether a run that is known came of another request than this one. Hashes of older versions have
-- no digest.
local function other(key, tenant, digest)
  local known = redis.call('HMGET', key, 'tenant', 'request_digest')
  if known[2] then return known[2] ~= digest end
  return known[1] and known[1] ~= tenant
end

while at <= #ARGV do
  local id, entry, tenant, digest, state = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local n = tonumber(ARGV[at + 9])
  local key, words_end, answer = run_key(ns, id), at + 9 + n, 'known'
  local is_known = redis.call('EXISTS', key) == 1
  local request = not is_known and request_of(entry)
  if request then
    local own = state == 'queued' and limits_of(tenant)
    answer = own and limit_reached(own) or 'admitted'
    if answer == 'admitted' then
      local words = { 'state', state, 'attempt', '0', 'tenant', tenant, 'request_digest', digest,
        unpack(ARGV, at + 10, words_end) }
      if own then
        words[#words + 1] = 'place'
        words[#words + 1] = queue(own, tenant, id, request)
        words[#words + 1] = 'request_bytes'
        words[#words + 1] = #request
      end
      redis.call('HSET', key, unpack(words))
      redis.call('PEXPIREAT', key, ARGV[at + 5])
      if state == 'closed' then
        local run = read(key, { 'outcome', 'reason', 'tenant', 'metadata', 'submitted_at_ms', 'settled_at_ms' })
        run.tries = '0'
        local json = result(run, ARGV[words_end + 1], ARGV[words_end + 2], ARGV[words_end + 3])
        local published = redis.call('XADD', KEYS[3], '*', 'run_id', id, 'outcome', run.outcome, 'result', json)
        redis.call('HSET', key, 'result_entry', published)
        meter(ns, ARGV[5], ARGV[6], tenant, 'runs:' .. run.outcome, 1)
        note_end(ns, id, run, run.outcome, run.reason or '', ARGV[at + 5])
      end
    end
  elseif is_known and other(key, tenant, digest) then
    local reason = 'id_taken: the id ' .. id .. ' is that of a run of tenant ' .. (redis.call('HGET', key, 'tenant') or '')
      .. ', and this is another request, of tenant ' .. tenant
    if dead_letter(KEYS[1], KEYS[4], ARGV[2], entry, ARGV[7], ARGV[8], reason, 'runs') then answer = 'taken' end
  end
  answers[#answers + 1] = answer
  if answer == 'known' or answer == 'admitted' then taken[#taken + 1] = entry end
  at = words_end + (state == 'closed' and 4 or 1)
end

if due[1] then redis.call('ZADD', KEYS[2], unpack(due)) end
-- With no run open the count is what came now: an error does not last.
if bytes > 0 then redis.call(was_empty and 'SET' or 'INCRBY', backlog_bytes_key(ns), bytes) end
for _, tenant in ipairs(tenants) do
  if seen[tenant].places[1] then enqueue(ns, tenant, seen[tenant].places) end
end
if taken[1] then
  redis.call('XACK', KEYS[1], ARGV[2], unpack(taken))
  redis.call('XDEL', KEYS[1], unpack(taken))
end
return answers
