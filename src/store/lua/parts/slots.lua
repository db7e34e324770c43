-- Of the machines in flight.

-- What stands in `inflight` beside a run's id. A run of a version without nonces has none.
local function slot_value(attempt, tenant, nonce)
  return attempt .. ' ' .. tenant .. (nonce and ' ' .. nonce or '')
end

-- Counts a run among the machines in flight, of its app and of its tenant.
local function take_slot(ns, app, tenant, id, attempt, nonce)
  redis.call('HSET', inflight_key(ns, app), id, slot_value(attempt, tenant, nonce))
  redis.call('SADD', busy_key(ns, tenant), id)
end

-- Takes a run out of the machines in flight. Its tenant may have been at its cap.
local function release_slot(ns, app, tenant, id)
  redis.call('HDEL', inflight_key(ns, app), id)
  redis.call('SREM', busy_key(ns, tenant), id)
  redis.call('SREM', owed_key(ns), id)
  unpark(ns, tenant)
end

-- Takes a run of which nothing else is known out of the machines in flight. Answers how many
-- places it was in, and what these tell of it: its app, attempt, tenant and nonce.
local function drop_stale_slots(ns, id)
  local places, in_app, attempt, tenant, nonce = 0, nil, nil, nil, nil
  for _, app in ipairs(redis.call('SMEMBERS', apps_key(ns))) do
    local who = redis.call('HGET', inflight_key(ns, app), id)
    if who then
      places, in_app = places + 1, app
      attempt, tenant, nonce = string.match(who, '^(%d+) (%S*) ?(%S*)')
      release_slot(ns, app, tenant or '', id)
    end
  end
  return places, in_app, attempt, tenant, nonce
end
