-- why: what a waiting run waits for. Only reads.
--
-- KEYS 1 run hash  2 tenants  3 parked  4 fleet settings  5 fleet
-- ARGV 1 namespace  2 run id  3 today
-- Answers: JSON, as run::wait::Facts reads it; nil when there is no such run

local ns, id = ARGV[1], ARGV[2]
local run = read(KEYS[1], { 'state', 'tenant', 'refused_since_ms' })
if not run.state then return false end
local tenant = run.tenant
local queue, later = queue_key(ns, tenant), delayed_of_key(ns, tenant)
local own = read(settings_key(ns, tenant), { 'max_in_flight', 'paused', 'budget_s' })
local facts = {
  queued = run.state == 'queued',
  before = redis.call('ZRANK', queue, id) or nil,
  refused_since_ms = tonumber(run.refused_since_ms),
  ready_at_ms = tonumber(redis.call('ZSCORE', later, id) or nil),
  tenants_before = redis.call('ZRANK', KEYS[2], tenant) or nil,
  all_paused = redis.call('HEXISTS', KEYS[4], 'paused') == 1,
  tenant = {
    paused = own.paused ~= nil,
    max_in_flight = tonumber(own.max_in_flight),
    in_flight = redis.call('SCARD', busy_key(ns, tenant)),
    budget_s = tonumber(own.budget_s),
    used_ms = tonumber(redis.call('HGET', usage_key(ns, ARGV[3], tenant), 'ms') or '0'),
  },
  in_flight = in_flight(ns),
}
local fleet = read(KEYS[5], { 'apps', 'max_in_flight', 'app_max_in_flight', 'tenant_max_in_flight', 'boot_rate', 'refused_max_ms' })
if fleet.apps then
  facts.fleet = {
    max_in_flight = tonumber(fleet.max_in_flight),
    app_max_in_flight = tonumber(fleet.app_max_in_flight),
    tenant_max_in_flight = tonumber(fleet.tenant_max_in_flight),
    boot_rate = tonumber(fleet.boot_rate),
    refused_max_ms = tonumber(fleet.refused_max_ms),
    apps = {},
  }
  for app in string.gmatch(fleet.apps, '[^,]+') do
    local bucket = read(bucket_key(ns, app), { 'tokens', 'at_ms', 'hold_until_ms', 'refused' })
    table.insert(facts.fleet.apps, {
      in_flight = redis.call('HLEN', inflight_key(ns, app)),
      tokens = tonumber(bucket.tokens),
      at_ms = tonumber(bucket.at_ms),
      hold_until_ms = tonumber(bucket.hold_until_ms),
      refused = bucket.refused,
    })
  end
end
return cjson.encode(facts)
