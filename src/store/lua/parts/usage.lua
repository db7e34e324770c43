-- What tenants use.

-- Adds to what a tenant used on a day. Every such hash has its time to live from its first field.
local function meter(ns, day, expires, tenant, field, by)
  local key = usage_key(ns, day, tenant)
  if redis.call('HINCRBY', key, field, by) == by then redis.call('PEXPIREAT', key, expires) end
end

-- Adds the time for which a machine of a size existed, from one time to another.
local function meter_machine(ns, day, expires, tenant, size, from, to)
  local spent = from and tonumber(to) - tonumber(from) or 0
  if spent <= 0 then return end
  meter(ns, day, expires, tenant, 'ms', spent)
  meter(ns, day, expires, tenant, 'ms:' .. size, spent)
end
