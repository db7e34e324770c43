-- Of the machines in flight.

-- Counts a run among the machines in flight, of its app and of its tenant.
local function launch(ns, app, tenant, id, attempt)
  redis.call('HSET', ns .. ':inflight:' .. app, id, attempt .. ' ' .. tenant)
  redis.call('SADD', ns .. ':busy:' .. tenant, id)
end

-- Takes a run out of the machines in flight. Its tenant may have been at its cap.
local function land(ns, app, tenant, id)
  redis.call('HDEL', ns .. ':inflight:' .. app, id)
  redis.call('SREM', ns .. ':busy:' .. tenant, id)
  redis.call('SREM', ns .. ':owed', id)
  unpark(ns, tenant)
end

-- Takes a run of which nothing else is known out of the machines in flight. Answers how many
-- places it was in.
local function vanish(ns, id)
  local places = 0
  for _, app in ipairs(redis.call('SMEMBERS', ns .. ':apps')) do
    local who = redis.call('HGET', ns .. ':inflight:' .. app, id)
    if who then
      places = places + 1
      land(ns, app, string.match(who, '^%d+ (.*)$') or '', id)
    end
  end
  return places
end
