-- claim: the next runs to boot, as many as the limits allow, each moved to booting. The tenant with
-- the least start tag goes first (see parts/fair_queue.lua); within it, the first in its queue. Of the
-- apps that may boot now, the one with the fewest machines in flight is chosen.
--
-- Unlike the other scripts this one holds policy: caps, fair queueing and the choice of an app look at
-- many keys that must not change meanwhile. Every limit comes in as ARGV.
--
-- KEYS 1 tenants  2 due  3 delayed (tenants)  4 apps  5 fleet settings  6 parked  7 installation
-- ARGV 1 namespace  2 now, ms  3 lease until, ms  4 most in flight, whole fleet  5 most runs wanted
--      6 moves  7 hash slack, ms  8 boots per second and app (0: no limit)  9 burst
--      10 most in flight, one app (0: no limit)  11 most in flight, one tenant (0: no limit)
--      12 machines that a tenant without a limit of its own may have for each slot that it leaves free
--      (0: any number)  13 today  14 its end, ms  15 a random number, 16 hexadecimal digits
--      16… the apps
-- Answers: { why it stopped, wake at (ms, 0: unknown), { run, … } } where why is one of
--      "wanted" (got as many as wanted), "empty" (nothing may go), "full" (the fleet is at its cap),
--      "held" (no app may boot before `wake at`), "paused" (everything is), and a run is
--      { id, tenant, attempt, app, deadline ms, refusals, refused since ms ("" if never), nonce,
--      request ("": too large to travel with the rest), its bytes ("": not known) }

local ns, now, want = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[5])
local rate, burst = tonumber(ARGV[8]), tonumber(ARGV[9])
local app_most, tenant_most, first_app = tonumber(ARGV[10]), tonumber(ARGV[11]), 16
if app_most == 0 then app_most = math.huge end
local per_free_slot = tonumber(ARGV[12])

-- Runs whose time has come join their queues. A bound on how many one script moves.
local function next_delayed()
  return tonumber(redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2] or '0')
end
local wake = next_delayed()
if wake > 0 and wake <= now then
  local movable = 64
  for _, tenant in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, movable)) do
    local key = delayed_of_key(ns, tenant)
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, movable)) do
      movable = movable - 1
      redis.call('ZREM', key, id)
      local run = read(run_key(ns, id), { 'state', 'place' })
      if run.state and target(ARGV[6], run.state) then enqueue(ns, tenant, { run.place, id }) end
    end
    redelay(ns, tenant)
    if movable <= 0 then break end
  end
  wake = next_delayed()
end

-- Tenants that were parked until now may go again.
for _, tenant in ipairs(redis.call('ZRANGEBYSCORE', KEYS[6], '-inf', now, 'LIMIT', 0, 64)) do
  unpark(ns, tenant)
end

if redis.call('HEXISTS', KEYS[5], 'paused') == 1 then return { 'paused', wake, {} } end
local waiting = redis.call('ZCARD', KEYS[1])
if waiting == 0 then return { 'empty', wake, {} } end

-- Counted from what is in flight, so that no counter can drift.
local total, apps = 0, {}
local busy = {}
local function count(app)
  busy[app] = redis.call('HLEN', inflight_key(ns, app))
  total = total + busy[app]
end
for _, app in ipairs(redis.call('SMEMBERS', KEYS[4])) do count(app) end
for i = first_app, #ARGV do
  if not busy[ARGV[i]] then
    redis.call('SADD', KEYS[4], ARGV[i])
    count(ARGV[i])
  end
end
local room = tonumber(ARGV[4]) - total
if room <= 0 then return { 'full', wake, {} } end

-- What each app may boot now, and when the next one may if none may.
local held = 0
for i = first_app, #ARGV do
  local app = bucket(ns, ARGV[i], now, rate, burst)
  local free_at = app.free_at
  if free_at <= now then
    apps[#apps + 1] = app
  elseif held == 0 or free_at < held then
    held = free_at
  end
end

local function choose(but)
  local best
  for _, app in ipairs(apps) do
    local may = app.tokens >= 1 and busy[app.name] < app_most and app.name ~= but
    if may and (not best or busy[app.name] < busy[best.name]) then best = app end
  end
  return best
end

-- Why no app was chosen: one is at its cap, or all have made the boots that they may.
local function why_none()
  for i = first_app, #ARGV do
    if busy[ARGV[i]] >= app_most then return 'full' end
  end
  return 'held'
end

-- A tenant's limits, and what it has in flight; read once.
local seen = {}
local function limits_of(tenant)
  local own = seen[tenant]
  if own then return own end
  own = read(settings_key(ns, tenant), { 'max_in_flight', 'weight', 'paused', 'budget_s' })
  own.most, own.busy = tonumber(own.max_in_flight or tenant_most), 0
  if own.most == 0 then own.most = math.huge end
  own.shares = per_free_slot > 0 and not own.max_in_flight
  if own.most < math.huge or own.shares then own.busy = redis.call('SCARD', busy_key(ns, tenant)) end
  own.step = 1 / tonumber(own.weight or '1')
  if own.paused then
    own.until_ms = '+inf'
  elseif own.budget_s then
    local used = redis.call('HGET', usage_key(ns, ARGV[13], tenant), 'ms') or '0'
    if tonumber(used) >= tonumber(own.budget_s) * 1000 then own.until_ms = ARGV[14] end
  end
  seen[tenant] = own
  return own
end

-- A new nonce. The installation's id is made when it is first needed, so that a Redis that was emptied
-- is another installation from then on.
local installation
local function nonce_for(id)
  installation = installation or redis.call('GET', KEYS[7])
  if not installation then
    installation = ARGV[15]
    redis.call('SET', KEYS[7], installation)
  end
  return installation .. string.sub(redis.sha1hex(ARGV[15] .. ' ' .. id), 1, 16)
end

local leased = {}

-- Moves a run to booting. Answers what the caller needs of it, and the app that it boots in; nil when it
-- may not go. The app of its last boot, if the provider deferred that, is chosen again only when no
-- other may boot: it may be full, and so have the fewest machines in flight.
local function start(tenant, id, chosen)
  local key = run_key(ns, id)
  local run = read(key, { 'state', 'attempt', 'timeout_ms', 'queue_until_ms', 'refusals', 'refused_since_ms', 'app', 'deferred',
    'nonce', 'request_bytes' })
  local to = run.state and target(ARGV[6], run.state)
  -- The sweep ends one that waited too long.
  if not to or tonumber(run.queue_until_ms or math.huge) <= now then return nil end
  if run.deferred and run.app == chosen.name then chosen = choose(run.app) or chosen end
  local app = chosen.name
  local attempt, deadline = string.format('%d', run.attempt + 1), string.format('%d', now + run.timeout_ms)
  local request = request_key(ns, id)
  local nonce = run.nonce or nonce_for(id)
  local is_small = tonumber(run.request_bytes or '0') <= INLINE_BYTES
  redis.call('HSET', key, 'state', to, 'attempt', attempt, 'app', app, 'booting_at_ms', ARGV[2],
    'deadline_ms', deadline, 'boot_until_ms', ARGV[3], 'nonce', nonce)
  -- Hash and request live for the slack after both its wait, as at its admission, and its deadline.
  if tonumber(run.queue_until_ms or '0') < tonumber(deadline) then
    local expires = tonumber(deadline) + tonumber(ARGV[7])
    redis.call('PEXPIREAT', key, expires)
    redis.call('PEXPIREAT', request, expires)
  end
  leased[#leased + 1] = ARGV[3]
  leased[#leased + 1] = id
  take_slot(ns, app, tenant, id, attempt, nonce)
  return { id, tenant, attempt, app, deadline, run.refusals or '0', run.refused_since_ms or '', nonce,
    is_small and redis.call('GET', request) or '', run.request_bytes or '' }, chosen
end

local taken, why, steps = {}, 'wanted', 0
local known = redis.call('MGET', vtime_key(ns), min_start_tag_key(ns))
local old_vtime, old_min = tonumber(known[1] or -math.huge), tonumber(known[2] or -math.huge)
local vtime, min_tag = old_vtime, old_min
while #taken < want do
  if room <= 0 then why = 'full' break end
  local app = choose()
  if not app then
    why = why_none()
    if why == 'held' and held == 0 then held = now + math.ceil(1000 / rate) end
    break
  end
  local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
  if not first[1] then why = 'empty' break end
  local tenant, start_tag, own = first[1], tonumber(first[2]), limits_of(first[1])
  if own.busy >= own.most then
    own.until_ms = '+inf'
  elseif own.shares and own.busy > 0 and own.busy >= (room - 1) * per_free_slot then
    -- Until the next claim: any run that ends can change it.
    own.until_ms = '0'
  end
  if own.until_ms then
    park(ns, tenant, own.until_ms)
  else
    local id = redis.call('ZPOPMIN', queue_key(ns, tenant))[1]
    if not id then drop_if_empty(ns, tenant) end
    local run, chosen
    if id then run, chosen = start(tenant, id, app) end
    if run then
      app = chosen
      taken[#taken + 1] = run
      busy[app.name], room, app.tokens = busy[app.name] + 1, room - 1, app.tokens - 1
      own.busy = own.busy + 1
      if start_tag > vtime then
        vtime = start_tag
      else
        -- It catches up; who joins later catches up with that much less.
        local least = math.max(min_tag, vtime - total / waiting)
        min_tag = math.min(least + 1 / waiting, vtime + 1)
      end
      redis.call('ZADD', KEYS[1], score(start_tag + own.step), tenant)
    end
  end
  steps = steps + 1
  -- A bound on one script's time; the caller claims again at once.
  if steps >= want + 256 then break end
end

if leased[1] then redis.call('ZADD', KEYS[2], unpack(leased)) end
for tenant in pairs(seen) do drop_if_empty(ns, tenant) end
if vtime > old_vtime then redis.call('SET', vtime_key(ns), score(vtime)) end
if min_tag > old_min then redis.call('SET', min_start_tag_key(ns), score(min_tag)) end
-- A tenant that has come no further than the least start tag joins as a new one does.
redis.call('ZREMRANGEBYSCORE', idle_key(ns), '-inf', score(math.max(min_tag, vtime - total - #taken)))
if rate > 0 then
  for _, app in ipairs(apps) do
    keep(ns, app, rate, burst)
  end
end
if why == 'held' and (wake == 0 or held < wake) then wake = held end
return { why, wake, taken }
