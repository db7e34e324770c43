-- Bytes of results that are kept, of all and of each tenant: a hash with `sum`, all bytes that were ever
-- published, and for each slice of time, named for when it begins (ms), what `sum` was then. What was
-- published before slice `from` is given back, `base` bytes; from the next trim on that is the slice in
-- which the first result on the stream was published (`since`, in the hash of all).

-- When the slice begins in which a time lies.
local function slice_of(time, slice)
  return string.format('%d', time - time % slice)
end

-- How many bytes `key` has as kept, and the slice they count from. The slice of now begins at `begins`;
-- `from` is read there where it is not given.
local function kept_bytes(key, begins, from, slice, ttl)
  local known = redis.call('HMGET', key, 'sum', 'base', 'from', begins, 'since')
  local sum, base = tonumber(known[1] or '0'), tonumber(known[2] or '0')
  from = from or slice_of(tonumber(known[5] or '0'), slice)
  if known[3] ~= from then
    base = sum
    local fields = redis.call('HGETALL', key)
    for i = 1, #fields, 2 do
      local at = tonumber(fields[i])
      if at and at < tonumber(from) then
        redis.call('HDEL', key, fields[i])
      elseif at then
        base = math.min(base, fields[i + 1])
      end
    end
    redis.call('HSET', key, 'base', string.format('%d', base), 'from', from)
  end
  if not known[4] then
    redis.call('HSET', key, begins, string.format('%d', sum))
    if ttl then redis.call('PEXPIRE', key, ttl) end
  end
  return sum - base, from
end
