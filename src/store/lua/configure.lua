-- configure: what is set for a tenant changes.
--
-- KEYS 1 the tenant's settings  2 tenants with settings  3 wakeups
-- ARGV 1 namespace  2 tenant, then pairs of field and value ("": as if it had never been set)
-- Answers: 1

local ns, tenant = ARGV[1], ARGV[2]
for i = 3, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[i])
  else
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
reconsider(ns, tenant, KEYS[1], KEYS[2], KEYS[3])
return 1
