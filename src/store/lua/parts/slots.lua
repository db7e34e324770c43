-- Slots: each run that may have a machine holds one of its app and one of its tenant.

-- What stands in `inflight` beside a run's id. A run of a version without nonces has none.
local function slot_value(attempt, tenant, nonce)
  return attempt .. ' ' .. tenant .. (nonce and ' ' .. nonce or '')
end

local function take_slot(ns, app, tenant, id, attempt, nonce)
  redis.call('HSET', inflight_key(ns, app), id, slot_value(attempt, tenant, nonce))
  redis.call('SADD', busy_key(ns, tenant), id)
end

-- Its tenant may have been at its cap, and goes on.
local function release_slot(ns, app, tenant, id)
  redis.call('HDEL', inflight_key(ns, app), id)
  redis.call('SREM', busy_key(ns, tenant), id)
  redis.call('SREM', owed_key(ns), id)
  unpark(ns, tenant)
end

-- Releases the slots of a run of which nothing else is known, in whichever apps they are. Answers how
-- many there were, and what they tell of the run: its app, attempt, tenant and nonce.
local function drop_stale_slots(ns, id)
  local slots, in_app, attempt, tenant, nonce = 0, nil, nil, nil, nil
  for _, app in ipairs(redis.call('SMEMBERS', apps_key(ns))) do
    local value = redis.call('HGET', inflight_key(ns, app), id)
    if value then
      slots, in_app = slots + 1, app
      attempt, tenant, nonce = string.match(value, '^(%d+) (%S*) ?(%S*)')
      release_slot(ns, app, tenant or '', id)
    end
  end
  return slots, in_app, attempt, tenant, nonce
end
