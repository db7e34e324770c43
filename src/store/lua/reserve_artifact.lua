-- reserve_artifact: a guest wants to put an artifact. Room for it is taken before a byte is.
--
-- KEYS 1 run hash  2 the request's artifacts  3 requests that may have artifacts  4 bytes kept
-- ARGV 1 run id  2 attempt  3 nonce  4 moves  5 put  6 name  7 bytes  8 what one counts as at least
--      9 now, ms  10 the room is kept until, ms  11 the token ends at, ms  12 the artifacts' hash expires
--      at, ms  13 most artifacts of the run  14 most bytes of the run  15 most bytes of one tenant (0:
--      any number)  16 most bytes of all (0: any number)
-- Answers: { "reserved", whose the run is }, { "denied", "" } (the token opens nothing now), and with
--      whose the run is "run_artifacts", "run_bytes", "tenant_bytes", "all_bytes" (that bound is reached)

local run = read(KEYS[1], { 'state', 'attempt', 'nonce', 'tenant' })
if not run.state or run.attempt ~= ARGV[2] or run.nonce ~= ARGV[3] or not target(ARGV[4], run.state) then
  return { 'denied', '' }
end
local key, least, tenant = KEYS[2], ARGV[8], run.tenant
if redis.call('HGET', key, 'attempt') ~= ARGV[2] then
  -- What an earlier attempt put is not this one's. It counts until it is removed.
  local fields = redis.call('HGETALL', key)
  for i = 1, #fields, 2 do
    if string.match(fields[i], '^[fp]:') then redis.call('HDEL', key, fields[i]) end
  end
  redis.call('HSET', key, 'attempt', ARGV[2], 'tenant', tenant, 'bytes', 0)
  redis.call('HINCRBY', key, 'charged', 0)
end

local wanted = counted(ARGV[7], least)
local is_there = redis.call('HGET', key, 'f:' .. ARGV[6])

-- Which bound does not allow it; nil when all do.
local function bound()
  -- Beside the artifacts there are `attempt`, `tenant`, `bytes`, `charged`.
  local count = redis.call('HLEN', key) - 4
  if count + (is_there and 0 or 1) > tonumber(ARGV[13]) then return 'run_artifacts' end
  if redis.call('HGET', key, 'bytes') + ARGV[7] > tonumber(ARGV[14]) then return 'run_bytes' end
  local of, all = tonumber(ARGV[15]), tonumber(ARGV[16])
  local bytes = redis.call('HMGET', KEYS[4], 'of:' .. tenant, 'all')
  if of > 0 and (bytes[1] or 0) + wanted > of then return 'tenant_bytes' end
  if all > 0 and (bytes[2] or 0) + wanted > all then return 'all_bytes' end
end

local reached = bound()
if reached then
  -- Some of it may be room for what never came.
  local fields = redis.call('HGETALL', key)
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, 2) == 'p:' then
      local bytes, till = string.match(fields[i + 1], '^(%d+) (%d+) ')
      if tonumber(till) <= tonumber(ARGV[9]) then
        redis.call('HDEL', key, fields[i])
        redis.call('HINCRBY', key, 'bytes', -bytes)
        charge(key, KEYS[4], tenant, -counted(bytes, least))
      end
    end
  end
  reached = bound()
end
if not reached then
  redis.call('HSET', key, 'p:' .. ARGV[5], ARGV[7] .. ' ' .. ARGV[10] .. ' ' .. ARGV[6])
  redis.call('HINCRBY', key, 'bytes', ARGV[7])
  charge(key, KEYS[4], tenant, wanted)
  redis.call('ZADD', KEYS[3], ARGV[11], table.concat({ ARGV[1], ARGV[3] }, ' '))
end
redis.call('PEXPIREAT', key, ARGV[12])
return { reached or 'reserved', tenant }
