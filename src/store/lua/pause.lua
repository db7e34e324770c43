-- pause: nothing of a tenant, or of all, boots any more; or it goes on. An order that comes after a
-- later one has been obeyed changes nothing: orders can overtake each other when a worker dies or is
-- suspended.
--
-- KEYS 1 settings of the tenant, or of all  2 id of the last order  3 tenants with settings  4 wakeups
-- ARGV 1 namespace  2 tenant ("": all)  3 "1" to pause, "" to go on
--      4 the order's id in its stream ("": it is given now, after all others)  5 how long its id is kept, ms
-- Answers: 1, or 0 when a later order has been obeyed

local ns, tenant = ARGV[1], ARGV[2]
local order = ARGV[4]
if order == '' then
  local now = redis.call('TIME')
  order = string.format('%d%03d-999999999', now[1], math.floor(now[2] / 1000))
end

local function parts(id)
  local ms, n = string.match(id, '^(%d+)%-(%d+)$')
  return tonumber(ms), tonumber(n)
end

local last = redis.call('GET', KEYS[2])
if last then
  local ms, n = parts(order)
  local last_ms, last_n = parts(last)
  if ms < last_ms or (ms == last_ms and n < last_n) then return 0 end
end
redis.call('SET', KEYS[2], order, 'PX', ARGV[5])
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[1], 'paused')
else
  redis.call('HSET', KEYS[1], 'paused', ARGV[3])
end
if tenant == '' then
  if ARGV[3] == '' then redis.call('RPUSH', KEYS[4], '') end
  return 1
end
reconsider(ns, tenant, KEYS[1], KEYS[3], KEYS[4])
return 1
