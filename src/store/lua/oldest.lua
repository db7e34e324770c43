-- oldest: when the first of the waiting runs was asked for, as far as a bounded read can tell. Of
-- each tenant's queue the first run of every priority is read.
--
-- KEYS 1 tenants  2 parked
-- ARGV 1 namespace  2 most tenants of each
-- Answers: ms, or nothing when no run waits

local ns, oldest = ARGV[1], nil
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
return oldest
