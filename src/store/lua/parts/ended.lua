-- Runs that have ended: their indexes by time, and the counts of each minute. Written by the scripts
-- that publish a result, so that they cost no round trip.

-- Entries of the index of all ended runs, and of that of one outcome, reason or tenant; Redis keeps up
-- to a hundred more.
local ENDED_MAX, ENDED_OF_MAX = 1000000, 10000
-- How long the counts of a minute are known: the hour that is shown, and another.
local MINUTE_KEPT_MS = 7200000
-- Requests that are kept for a run that ended without its guest's result, so that it can be asked for
-- again: bytes of one, of a tenant's, and of all together.
local REQUEST_KEPT, TENANT_REQUESTS_KEPT, REQUESTS_KEPT = 65536, 4194304, 33554432
local LN2 = math.log(2)

-- The bucket of a length of time, as run::spread reads it: bucket b > 0 ends before 2^(b/2) ms.
local function spread_bucket(from, to)
  local ms = to - from
  if ms < 1 then return '0' end
  return string.format('%d', math.min(64, 1 + math.floor(2 * math.log(ms) / LN2)))
end

-- Counts an end in its minute. Answers whether it was the first of its minute with that outcome.
local function count_end(ns, run, outcome)
  local now = tonumber(run.settled_at_ms)
  local minute = minute_key(ns, string.format('%d', now - now % 60000))
  local is_first = redis.call('HINCRBY', minute, outcome, 1) == 1
  if is_first then redis.call('PEXPIREAT', minute, string.format('%d', now + MINUTE_KEPT_MS)) end
  local booting, running = tonumber(run.booting_at_ms), tonumber(run.running_at_ms)
  if booting then redis.call('HINCRBY', minute, 'w' .. spread_bucket(run.submitted_at_ms or booting, booting), 1) end
  if running then
    redis.call('HINCRBY', minute, 'b' .. spread_bucket(booting or running, running), 1)
    redis.call('HINCRBY', minute, 'r' .. spread_bucket(running, now), 1)
  end
  return is_first
end

-- Notes that a run has ended: `reason` is JSON ("": none), `expires` when its hash does.
local function note_end(ns, id, run, outcome, reason, expires)
  local is_first, now = count_end(ns, run, outcome), tonumber(run.settled_at_ms)
  local code = reason ~= '' and string.match(reason, '"code":"([%l_]+)"')
  -- Its hash is gone in a minute, and there may be as many of them as requests.
  if code == 'queue_full' then return end
  local all = ended_key(ns)
  redis.call('XADD', all, 'MAXLEN', '~', ENDED_MAX, '*', 'id', id, 'outcome', outcome)
  if is_first then
    redis.call('XTRIM', all, 'MINID', '~', string.format('%d', math.max(0, 2 * now - expires)))
    redis.call('PEXPIREAT', all, expires)
  end
  local function of(key)
    redis.call('XADD', key, 'MAXLEN', '~', ENDED_OF_MAX, '*', 'id', id, 'outcome', outcome)
    redis.call('PEXPIREAT', key, expires)
  end
  if run.tenant then of(ended_of_tenant_key(ns, run.tenant)) end
  if outcome ~= 'completed' then of(ended_of_outcome_key(ns, outcome)) end
  if code then of(ended_of_reason_key(ns, code)) end
end

-- What becomes of the request of a run that ends: it has done its work, and is kept only where the run
-- may be asked for again, and within bounds of bytes. `bytes` is its length.
-- That of a run that completed is kept only if `keeps_all`.
local function release_request(ns, id, key, bytes, tenant, outcome, now, expires, keeps_all)
  bytes = tonumber(bytes or '0')
  if (outcome == 'completed' and not keeps_all) or bytes == 0 or bytes > REQUEST_KEPT or not tenant then
    redis.call('DEL', key)
    return
  end
  local index, sums = kept_requests_key(ns), kept_requests_bytes_key(ns)
  local sum = tonumber(redis.call('HGET', sums, '') or '0') + bytes
  -- The oldest go first, also when Redis has dropped them at their time to live. A bound on how many.
  for _, oldest in ipairs(redis.call('XRANGE', index, '-', '+', 'COUNT', 16)) do
    local of, its_tenant, its_bytes = oldest[2][2], oldest[2][4], oldest[2][6]
    if sum <= REQUESTS_KEPT and tonumber(oldest[2][8]) > now then break end
    redis.call('XDEL', index, oldest[1])
    -- Not one of another run that has the id now.
    if redis.call('HGET', run_key(ns, of), 'settled_at_ms') == oldest[2][10] then redis.call('DEL', request_key(ns, of)) end
    redis.call('HINCRBY', sums, '', '-' .. its_bytes)
    if redis.call('HINCRBY', sums, its_tenant, '-' .. its_bytes) <= 0 then redis.call('HDEL', sums, its_tenant) end
    sum = sum - its_bytes
  end
  local of_tenant = tonumber(redis.call('HGET', sums, tenant) or '0') + bytes
  if sum > REQUESTS_KEPT or of_tenant > TENANT_REQUESTS_KEPT then
    redis.call('DEL', key)
    return
  end
  redis.call('PEXPIREAT', key, expires)
  redis.call('XADD', index, '*', 'id', id, 'tenant', tenant, 'bytes', string.format('%d', bytes),
    'until_ms', expires, 'settled_at_ms', now)
  redis.call('HINCRBY', sums, '', bytes)
  redis.call('HINCRBY', sums, tenant, bytes)
  redis.call('PEXPIREAT', index, expires)
  redis.call('PEXPIREAT', sums, expires)
end
