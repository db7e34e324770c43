-- census: how many of what there is, and when the first of the waiting runs was asked for, as far as a
-- bounded read can tell: of each tenant's queue the first run of every priority is read. Only reads.
--
-- KEYS 1 tenants  2 parked  3 due  4 owed  5 requests stream  6 orders stream  7 results stream
--      8 dead stream  9 apps
-- ARGV 1 namespace  2 most tenants read, of each of the two  3 what is due before this is overdue
-- Answers: { runs that are not closed, of these overdue, tear-downs owed, requests, orders, results,
--      dead entries, tenants that may go, tenants that may not, runs that may have a machine,
--      ms (nothing when no run waits) }

local ns, oldest, in_flight = ARGV[1], false, 0
for i = 1, 2 do
  for _, tenant in ipairs(redis.call('ZRANGE', KEYS[i], 0, ARGV[2] - 1)) do
    local queue, from = queue_key(ns, tenant), '-inf'
    for priority = 0, 9 do
      local next_from = score((priority + 1) * PER_PRIORITY)
      local id = redis.call('ZRANGEBYSCORE', queue, from, '(' .. next_from, 'LIMIT', 0, 1)[1]
      local since = id and tonumber(read(run_key(ns, id), { 'submitted_at_ms' }).submitted_at_ms)
      if since and (not oldest or since < oldest) then oldest = since end
      from = next_from
    end
  end
end
for _, app in ipairs(redis.call('SMEMBERS', KEYS[9])) do
  in_flight = in_flight + redis.call('HLEN', inflight_key(ns, app))
end
return {
  redis.call('ZCARD', KEYS[3]), redis.call('ZCOUNT', KEYS[3], '-inf', ARGV[3]),
  redis.call('SCARD', KEYS[4]), redis.call('XLEN', KEYS[5]), redis.call('XLEN', KEYS[6]),
  redis.call('XLEN', KEYS[7]), redis.call('XLEN', KEYS[8]), redis.call('ZCARD', KEYS[1]),
  redis.call('ZCARD', KEYS[2]), in_flight, oldest,
}
