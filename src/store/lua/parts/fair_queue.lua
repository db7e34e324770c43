-- Queues of runs, and start-time fair queueing between tenants.
--
-- Start-time fair queueing: P. Goyal, H. M. Vin, H. Cheng, "Start-time Fair Queueing: A Scheduling
-- Algorithm for Integrated Services Packet Switching Networks", SIGCOMM 1996. A tenant is a flow and a
-- boot is a packet of length 1. A tenant's score in `tenants` is the start tag of its next run. The
-- least start tag goes first, and each run that goes moves its tenant on by 1 / weight. Virtual time
-- (`vtime`) is the latest start tag at which a run went.
--
-- One difference: what is shared are machines in flight, which last, and not packets, which are gone. A
-- tenant that is new, or comes back, joins behind virtual time by its share of what is in flight, and so
-- catches up with what the others hold. What newcomers catch up with is taken off for those who come
-- after them (`min_start_tag`), so that ever new ones cannot keep a tenant waiting.

-- A number as a score, without loss.
local function score(number)
  return string.format('%.17g', number)
end

-- How many machines are in flight: counted from what is, so that no counter can drift.
local function in_flight(ns)
  local total = 0
  for _, app in ipairs(redis.call('SMEMBERS', apps_key(ns))) do
    total = total + redis.call('HLEN', inflight_key(ns, app))
  end
  return total
end

-- The least start tag with which a tenant joins.
local function min_start_tag(ns)
  local waiting = math.max(1, redis.call('ZCARD', tenants_key(ns)))
  local known = redis.call('MGET', vtime_key(ns), min_start_tag_key(ns))
  return math.max(tonumber(known[1] or '0') - in_flight(ns) / waiting, tonumber(known[2] or -math.huge))
end

-- Puts a tenant among those that may go: never before the start tag that it had come to, so that
-- neither waiting nor coming and going gains it any.
local function join(ns, tenant)
  local own = tonumber(redis.call('ZSCORE', idle_key(ns), tenant) or -math.huge)
  redis.call('ZADD', tenants_key(ns), score(math.max(min_start_tag(ns), own)), tenant)
  redis.call('ZREM', idle_key(ns), tenant)
end

-- Takes a tenant from among those that may go, and keeps the start tag it had come to.
local function leave(ns, tenant)
  local own = redis.call('ZSCORE', tenants_key(ns), tenant)
  if own then
    redis.call('ZREM', tenants_key(ns), tenant)
    redis.call('ZADD', idle_key(ns), own, tenant)
  end
end

-- Sets a tenant with waiting runs aside, where no claim reads it, until a time or until it is
-- unparked.
local function park(ns, tenant, until_ms)
  leave(ns, tenant)
  redis.call('ZADD', parked_key(ns), until_ms, tenant)
end

-- Lets a parked tenant go on. Answers 1 if it has runs that may go.
local function unpark(ns, tenant)
  if redis.call('ZREM', parked_key(ns), tenant) == 0 then return 0 end
  if redis.call('EXISTS', queue_key(ns, tenant)) == 0 then return 0 end
  join(ns, tenant)
  return 1
end

-- Puts runs in their tenant's queue, and the tenant among those that may go. `places` has each
-- run's place and id.
local function enqueue(ns, tenant, places)
  redis.call('ZADD', queue_key(ns, tenant), unpack(places))
  if not redis.call('ZSCORE', tenants_key(ns), tenant) and not redis.call('ZSCORE', parked_key(ns), tenant) then
    join(ns, tenant)
  end
end

-- A tenant whose queue is empty is neither among those that may go nor parked.
local function drop_if_empty(ns, tenant)
  if redis.call('EXISTS', queue_key(ns, tenant)) == 0 then
    leave(ns, tenant)
    redis.call('ZREM', parked_key(ns), tenant)
  end
end

-- Lets a run wait for its time. `delayed` has each such tenant by the first of its times.
local function delay(ns, tenant, id, ready)
  redis.call('ZADD', delayed_of_key(ns, tenant), ready, id)
  redis.call('ZADD', delayed_key(ns), 'LT', ready, tenant)
end

-- Corrects when the first delayed run of a tenant is ready, after one was taken out.
local function redelay(ns, tenant)
  local first = redis.call('ZRANGE', delayed_of_key(ns, tenant), 0, 0, 'WITHSCORES')
  if first[2] then
    redis.call('ZADD', delayed_key(ns), first[2], tenant)
  else
    redis.call('ZREM', delayed_key(ns), tenant)
  end
end

-- Takes a run out of its tenant's queue and out of the delayed ones.
local function dequeue(ns, tenant, id)
  redis.call('ZREM', queue_key(ns, tenant), id)
  if redis.call('ZREM', delayed_of_key(ns, tenant), id) == 1 then redelay(ns, tenant) end
  drop_if_empty(ns, tenant)
end
