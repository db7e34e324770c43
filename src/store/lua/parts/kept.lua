-- Bytes of results that are kept, of all and of each tenant: a hash with a field for each slice of time,
-- named for when the slice begins, ms. In that of all, `since` is when the first result that is still on
-- the stream was published, as the last trim saw it: slices before that are given back.

-- Whether so many more bytes may be kept; `most` 0 is any number.
local function may_keep(key, most, bytes, since, slice)
  if most == 0 then return true end
  local kept, known = bytes, redis.call('HGETALL', key)
  for i = 1, #known, 2 do
    local begins = tonumber(known[i])
    if begins and begins + slice <= since then
      redis.call('HDEL', key, known[i])
    elseif begins then
      kept = kept + known[i + 1]
    end
  end
  return kept <= most
end

local function count_kept(key, bytes, now, slice, ttl)
  local begins = string.format('%d', now - now % slice)
  local is_new = redis.call('HINCRBY', key, begins, bytes) == bytes
  if is_new and ttl then redis.call('PEXPIRE', key, ttl) end
end
