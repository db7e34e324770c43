-- Shared by every script; stands in front of each. No script decides policy: what is accepted
-- comes in as ARGV, computed from run::step.
--
-- moves: "from:to,from:to", the states an event is accepted from and where each leads.

-- Places of one priority: 49 bits count the requests of a namespace's life.
local PER_PRIORITY = 562949953421312

-- The state that `state` leads to, or nil when the event is not accepted in it.
local function target(moves, state)
  return string.match(',' .. moves .. ',', ',' .. state .. ':(%a+),')
end

-- The named fields of a hash as a table; absent ones are absent.
local function read(key, names)
  local values, run = redis.call('HMGET', key, unpack(names)), {}
  for i, name in ipairs(names) do
    if values[i] then run[name] = values[i] end
  end
  return run
end

-- A number as a score, without loss.
local function score(number)
  return string.format('%.17g', number)
end

-- How many machines are in flight: counted from what is, so that no counter can drift.
local function in_flight(ns)
  local total = 0
  for _, app in ipairs(redis.call('SMEMBERS', ns .. ':apps')) do
    total = total + redis.call('HLEN', ns .. ':inflight:' .. app)
  end
  return total
end

-- Turns. A tenant's score in `tenants` is the turn at which its next run goes. The least goes
-- first, and every run that goes moves its tenant on by 1 / weight. `vtime` is the latest turn
-- at which a run went.
--
-- A tenant that is new, or comes back, joins behind that by its share of what is in flight, and so
-- catches up with what the others have, and with nothing older. What newcomers catch up with is
-- taken off for those who come after them (`floor`), so that ever new ones cannot keep a tenant
-- waiting that has had its turn.

-- The turn before which nobody joins.
local function floor(ns)
  local waiting = math.max(1, redis.call('ZCARD', ns .. ':tenants'))
  local known = redis.call('MGET', ns .. ':vtime', ns .. ':floor')
  return math.max(tonumber(known[1] or '0') - in_flight(ns) / waiting, tonumber(known[2] or -math.huge))
end

-- Puts a tenant among those whose turn comes: never before the turn that it had got to, so that
-- neither saving up turns nor coming and going gains any.
local function join(ns, tenant)
  local own = tonumber(redis.call('ZSCORE', ns .. ':idle', tenant) or -math.huge)
  redis.call('ZADD', ns .. ':tenants', score(math.max(floor(ns), own)), tenant)
  redis.call('ZREM', ns .. ':idle', tenant)
end

-- Takes a tenant from among those whose turn comes, and remembers the turn it had got to.
local function leave(ns, tenant)
  local own = redis.call('ZSCORE', ns .. ':tenants', tenant)
  if own then
    redis.call('ZREM', ns .. ':tenants', tenant)
    redis.call('ZADD', ns .. ':idle', own, tenant)
  end
end

-- Sets a tenant with waiting runs aside, where it costs nobody a look, until a time or until it
-- is called back.
local function park(ns, tenant, until_ms)
  leave(ns, tenant)
  redis.call('ZADD', ns .. ':parked', until_ms, tenant)
end

-- Calls a tenant back. Answers 1 if its turn comes now.
local function unpark(ns, tenant)
  if redis.call('ZREM', ns .. ':parked', tenant) == 0 then return 0 end
  if redis.call('EXISTS', ns .. ':queue:' .. tenant) == 0 then return 0 end
  join(ns, tenant)
  return 1
end

-- After something was set for a tenant: it is listed for as long as anything is. What held it may
-- hold it no longer; a claim finds out.
local function reconsider(ns, tenant, settings, configured, duties)
  if redis.call('EXISTS', settings) == 1 then
    redis.call('SADD', configured, tenant)
  else
    redis.call('SREM', configured, tenant)
  end
  if unpark(ns, tenant) == 1 then redis.call('RPUSH', duties, '') end
end

-- Puts a run in its tenant's queue, and the tenant among those whose turn comes.
local function enqueue(ns, tenant, id, place)
  redis.call('ZADD', ns .. ':queue:' .. tenant, place, id)
  if not redis.call('ZSCORE', ns .. ':tenants', tenant) and not redis.call('ZSCORE', ns .. ':parked', tenant) then
    join(ns, tenant)
  end
end

-- A tenant whose queue is empty has no turn.
local function rest(ns, tenant)
  if redis.call('EXISTS', ns .. ':queue:' .. tenant) == 0 then
    leave(ns, tenant)
    redis.call('ZREM', ns .. ':parked', tenant)
  end
end

-- Lets a run wait for its time. `delayed` has each such tenant by the first of its times.
local function delay(ns, tenant, id, ready)
  redis.call('ZADD', ns .. ':delayed:' .. tenant, ready, id)
  redis.call('ZADD', ns .. ':delayed', 'LT', ready, tenant)
end

-- Sets right when a tenant's first delayed run is ready, after one was taken out.
local function redelay(ns, tenant)
  local first = redis.call('ZRANGE', ns .. ':delayed:' .. tenant, 0, 0, 'WITHSCORES')
  if first[2] then
    redis.call('ZADD', ns .. ':delayed', first[2], tenant)
  else
    redis.call('ZREM', ns .. ':delayed', tenant)
  end
end

-- Takes a run out of its tenant's queue and out of the delayed ones.
local function dequeue(ns, tenant, id)
  redis.call('ZREM', ns .. ':queue:' .. tenant, id)
  if redis.call('ZREM', ns .. ':delayed:' .. tenant, id) == 1 then redelay(ns, tenant) end
  rest(ns, tenant)
end

-- Counts a run among the machines in flight, of its app and of its tenant.
local function launch(ns, app, tenant, id, attempt)
  redis.call('HSET', ns .. ':inflight:' .. app, id, attempt .. ' ' .. tenant)
  redis.call('SADD', ns .. ':busy:' .. tenant, id)
end

-- Takes a run out of the machines in flight. Its tenant may have been at its cap.
local function land(ns, app, tenant, id)
  redis.call('HDEL', ns .. ':inflight:' .. app, id)
  redis.call('SREM', ns .. ':busy:' .. tenant, id)
  redis.call('SREM', ns .. ':owed', id)
  unpark(ns, tenant)
end

-- Takes a run of which nothing else is known out of the machines in flight. Answers how many
-- places it was in.
local function vanish(ns, id)
  local places = 0
  for _, app in ipairs(redis.call('SMEMBERS', ns .. ':apps')) do
    local who = redis.call('HGET', ns .. ':inflight:' .. app, id)
    if who then
      places = places + 1
      land(ns, app, string.match(who, '^%d+ (.*)$') or '', id)
    end
  end
  return places
end

-- Adds to what a tenant used on a day. Every such hash has its time to live from its first field.
local function meter(ns, day, expires, tenant, field, by)
  local key = ns .. ':usage:' .. day .. ':' .. tenant
  if redis.call('HINCRBY', key, field, by) == by then redis.call('PEXPIREAT', key, expires) end
end

-- Adds the time that a machine of a size was there, from one time to another.
local function meter_machine(ns, day, expires, tenant, size, from, to)
  local spent = from and tonumber(to) - tonumber(from) or 0
  if spent <= 0 then return end
  meter(ns, day, expires, tenant, 'ms', spent)
  meter(ns, day, expires, tenant, 'ms:' .. size, spent)
end

-- Fills a result's JSON. Each piece starts with its kind: l literal; n number, s string or j JSON
-- of the field named by the rest; m the machine. What is not known is null.
local function fill(run, first)
  local out = {}
  for i = first, #ARGV do
    local kind, rest = string.sub(ARGV[i], 1, 1), string.sub(ARGV[i], 2)
    if kind == 'l' then
      out[#out + 1] = rest
    elseif kind == 's' then
      out[#out + 1] = run[rest] and ('"' .. run[rest] .. '"') or 'null'
    elseif kind == 'm' then
      if run.machine_id then
        out[#out + 1] = '{"app":"' .. run.app .. '","id":"' .. run.machine_id .. '","region":'
          .. (run.region and ('"' .. run.region .. '"') or 'null') .. '}'
      else
        out[#out + 1] = 'null'
      end
    else
      out[#out + 1] = run[rest] or 'null'
    end
  end
  return table.concat(out)
end
