-- Shared by every script; stands in front of each. No script decides policy: what is accepted
-- comes in as ARGV, computed from run::step.
--
-- moves: "from:to,from:to", the states an event is accepted from and where each leads.

-- The state that `state` leads to, or nil when the event is not accepted in it.
local function target(moves, state)
  return string.match(',' .. moves .. ',', ',' .. state .. ':(%a+),')
end

-- Puts a run in its tenant's queue, and the tenant among those that wait. A tenant that was idle
-- joins at the virtual time of now, and never before its own last turn, so that neither saving up
-- turns nor coming and going gains any.
local function enqueue(ns, tenant, id, place)
  redis.call('ZADD', ns .. ':queue:' .. tenant, place, id)
  if not redis.call('ZSCORE', ns .. ':tenants', tenant) then
    local now = tonumber(redis.call('GET', ns .. ':vtime') or '0')
    local own = tonumber(redis.call('ZSCORE', ns .. ':idle', tenant) or '0')
    redis.call('ZADD', ns .. ':tenants', string.format('%.17g', math.max(now, own)), tenant)
    redis.call('ZREM', ns .. ':idle', tenant)
  end
end

-- Moves a tenant whose queue is empty from those that wait to those that are idle.
local function rest(ns, tenant)
  if redis.call('EXISTS', ns .. ':queue:' .. tenant) == 0 then
    local own = redis.call('ZSCORE', ns .. ':tenants', tenant)
    if own then
      redis.call('ZREM', ns .. ':tenants', tenant)
      redis.call('ZADD', ns .. ':idle', own, tenant)
    end
  end
end

-- Takes a run out of its tenant's queue and out of the delayed ones.
local function dequeue(ns, tenant, id)
  redis.call('ZREM', ns .. ':queue:' .. tenant, id)
  redis.call('ZREM', ns .. ':delayed', id)
  rest(ns, tenant)
end

-- Takes a run out of the machines in flight.
local function land(ns, app, id)
  if app then redis.call('HDEL', ns .. ':inflight:' .. app, id) end
end

-- Fills a result's JSON. Each piece starts with its kind: l literal; n number, s string or j JSON
-- of the field named by the rest; m the machine. What is not known is null.
local function fill(run, first)
  local out = {}
  for i = first, #ARGV do
    local kind, rest = string.sub(ARGV[i], 1, 1), string.sub(ARGV[i], 2)
    if kind == 'l' then
      out[#out + 1] = rest
    elseif kind == 's' then
      out[#out + 1] = run[rest] and ('"' .. run[rest] .. '"') or 'null'
    elseif kind == 'm' then
      if run.machine_id then
        out[#out + 1] = '{"app":"' .. run.app .. '","id":"' .. run.machine_id .. '","region":'
          .. (run.region and ('"' .. run.region .. '"') or 'null') .. '}'
      else
        out[#out + 1] = 'null'
      end
    else
      out[#out + 1] = run[rest] or 'null'
    end
  end
  return table.concat(out)
end

-- The named fields of a hash as a table; absent ones are absent.
local function read(key, names)
  local values, run = redis.call('HMGET', key, unpack(names)), {}
  for i, name in ipairs(names) do
    if values[i] then run[name] = values[i] end
  end
  return run
end
