-- Settings of tenants.

-- After something was set for a tenant: it is listed for as long as anything is. It may
-- have been parked for what was set before; a claim finds out.
local function reconsider(ns, tenant, settings, configured, wakeups)
  if redis.call('EXISTS', settings) == 1 then
    redis.call('SADD', configured, tenant)
  else
    redis.call('SREM', configured, tenant)
  end
  if unpark(ns, tenant) == 1 then redis.call('RPUSH', wakeups, '') end
end
