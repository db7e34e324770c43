-- Bytes of artifacts that are kept, of all and of each tenant.

-- Counts `by` more bytes (fewer, below 0) of one request: in its hash, of its tenant, and of all.
local function charge(artifacts, bytes, tenant, by)
  if by == 0 then return end
  redis.call('HINCRBY', artifacts, 'charged', by)
  redis.call('HINCRBY', bytes, 'all', by)
  if redis.call('HINCRBY', bytes, 'of:' .. tenant, by) <= 0 then
    redis.call('HDEL', bytes, 'of:' .. tenant)
  end
end

-- What an artifact of so many bytes counts as: its entry in Redis takes room too.
local function counted(bytes, least)
  return math.max(tonumber(bytes), tonumber(least))
end
