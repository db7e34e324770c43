-- claim: the next runs to boot, as many as there is room and leave for, each moved to booting.
-- The tenant that is furthest behind goes first; within it, the first in its queue. The app with
-- the fewest machines in flight is chosen among those that may boot now.
--
-- KEYS 1 tenants  2 due  3 delayed  4 apps
-- ARGV 1 namespace  2 now, ms  3 lease until, ms  4 most in flight, whole fleet  5 most runs wanted
--      6 moves  7 hash slack, ms  8 boots per second and app (0: no limit)  9 burst
--      10… the apps
-- Answers: { why it stopped, wake at (ms, 0: unknown), { run, … } } where why is one of
--      "wanted" (got as many as wanted), "empty" (nothing waits), "full" (no room in the fleet),
--      "held" (no app may boot before `wake at`), and a run is
--      { id, tenant, attempt, app, deadline ms, refusals, refused since ms ("" if never), request }

local ns, now, want = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[5])
local rate, burst = tonumber(ARGV[8]), tonumber(ARGV[9])

-- Runs whose time has come join their queues.
local ripe = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, 64)
for _, id in ipairs(ripe) do
  redis.call('ZREM', KEYS[3], id)
  local run = read(ns .. ':run:' .. id, { 'state', 'tenant', 'place' })
  if run.state and target(ARGV[6], run.state) then enqueue(ns, run.tenant, id, run.place) end
end
local wake = 0
local next_ripe = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
if next_ripe[2] then wake = tonumber(next_ripe[2]) end

if redis.call('EXISTS', KEYS[1]) == 0 then return { 'empty', wake, {} } end

-- Machines in flight: counted from what is in flight, so that no counter can drift.
local total, apps = 0, {}
for i = 10, #ARGV do redis.call('SADD', KEYS[4], ARGV[i]) end
local busy = {}
for _, app in ipairs(redis.call('SMEMBERS', KEYS[4])) do
  busy[app] = redis.call('HLEN', ns .. ':inflight:' .. app)
  total = total + busy[app]
end
local room = tonumber(ARGV[4]) - total
if room <= 0 then return { 'full', wake, {} } end

-- What each app may boot now, and when the next one may if none may.
local held = 0
for i = 10, #ARGV do
  local bucket = read(ns .. ':bucket:' .. ARGV[i], { 'tokens', 'at_ms', 'hold_until_ms' })
  local app = { name = ARGV[i], tokens = math.huge }
  local free_at = tonumber(bucket.hold_until_ms or '0')
  if rate > 0 then
    local at = math.max(now, tonumber(bucket.at_ms or '0'))
    local since = at - tonumber(bucket.at_ms or at)
    app.at, app.tokens = at, math.min(burst, tonumber(bucket.tokens or burst) + since * rate / 1000)
    if app.tokens < 1 then free_at = math.max(free_at, at + math.ceil((1 - app.tokens) * 1000 / rate)) end
  end
  if free_at <= now then
    apps[#apps + 1] = app
  elseif held == 0 or free_at < held then
    held = free_at
  end
end

local function choose()
  local best
  for _, app in ipairs(apps) do
    if app.tokens >= 1 and (not best or busy[app.name] < busy[best.name]) then best = app end
  end
  return best
end

local taken, why, looked = {}, 'wanted', 0
while #taken < want do
  if room <= 0 then why = 'full' break end
  local app = choose()
  if not app then
    why = 'held'
    if held == 0 then held = now + math.ceil(1000 / rate) end
    break
  end
  local turn = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
  if not turn[1] then why = 'empty' break end
  local tenant = turn[1]
  local popped = redis.call('ZPOPMIN', ns .. ':queue:' .. tenant)
  local id = popped[1]
  local key = id and (ns .. ':run:' .. id)
  local run = id and read(key, { 'state', 'attempt', 'timeout_ms', 'queue_until_ms', 'refusals', 'refused_since_ms', 'request' }) or {}
  local to = run.state and target(ARGV[6], run.state)
  -- One that waited too long is left for the sweep, which ends it.
  if to and tonumber(run.queue_until_ms or math.huge) > now then
    local attempt, deadline = run.attempt + 1, now + run.timeout_ms
    redis.call('HSET', key, 'state', to, 'attempt', attempt, 'app', app.name, 'booting_at_ms', now,
      'deadline_ms', deadline, 'boot_until_ms', ARGV[3])
    redis.call('PEXPIREAT', key, deadline + tonumber(ARGV[7]))
    redis.call('ZADD', KEYS[2], ARGV[3], id)
    redis.call('HSET', ns .. ':inflight:' .. app.name, id, attempt)
    busy[app.name], room, app.tokens = busy[app.name] + 1, room - 1, app.tokens - 1
    redis.call('SET', ns .. ':vtime', turn[2])
    redis.call('ZADD', KEYS[1], string.format('%.17g', turn[2] + 1), tenant)
    taken[#taken + 1] = { id, tenant, tostring(attempt), app.name, tostring(deadline),
      run.refusals or '0', run.refused_since_ms or '', run.request or '' }
  end
  rest(ns, tenant)
  looked = looked + 1
  -- A bound on one script's time; the caller comes back at once.
  if looked >= want + 256 then break end
end

redis.call('ZREMRANGEBYSCORE', ns .. ':idle', '-inf', redis.call('GET', ns .. ':vtime') or '0')
if rate > 0 then
  for _, app in ipairs(apps) do
    redis.call('HSET', ns .. ':bucket:' .. app.name, 'tokens', string.format('%.17g', app.tokens), 'at_ms', app.at)
    redis.call('PEXPIRE', ns .. ':bucket:' .. app.name, math.ceil(burst * 1000 / rate) + 60000)
  end
end
if why == 'held' and (wake == 0 or held < wake) then wake = held end
return { why, wake, taken }
