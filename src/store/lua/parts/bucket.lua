-- The token bucket of the create calls that an app may have, for the whole fleet. (The local Machines
-- server has one in Rust: it counts what reaches it, and knows no Redis.)

-- An app's bucket as it is now: its name, `tokens`, and when a call may go (`free_at`).
local function bucket(ns, app, now, rate, burst)
  local known = read(bucket_key(ns, app), { 'tokens', 'at_ms', 'hold_until_ms' })
  local found = { name = app, tokens = math.huge, free_at = tonumber(known.hold_until_ms or '0') }
  if rate > 0 then
    local at = math.max(now, tonumber(known.at_ms or '0'))
    local since = at - tonumber(known.at_ms or at)
    found.at, found.tokens = at, math.min(burst, tonumber(known.tokens or burst) + since * rate / 1000)
    if found.tokens < 1 then
      found.free_at = math.max(found.free_at, at + math.ceil((1 - found.tokens) * 1000 / rate))
    end
  end
  return found
end

-- Writes down what is left in a bucket, for as long as that says anything.
local function keep(ns, found, rate, burst)
  local key = bucket_key(ns, found.name)
  redis.call('HSET', key, 'tokens', string.format('%.17g', found.tokens), 'at_ms', found.at)
  redis.call('PEXPIRE', key, math.ceil(burst * 1000 / rate) + 60000)
end
