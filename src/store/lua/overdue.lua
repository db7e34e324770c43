-- overdue: runs at which somebody must look now, each leased to the caller by moving its due time.
-- A run whose hash is gone is forgotten everywhere.
--
-- KEYS 1 due  2 apps
-- ARGV 1 namespace  2 now, ms  3 lease until, ms  4 most
-- Answers: { { id, … }, number of runs whose hash was gone }

local ids, gone = {}, 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[2], 'LIMIT', 0, ARGV[4])) do
  if redis.call('EXISTS', ARGV[1] .. ':run:' .. id) == 1 then
    redis.call('ZADD', KEYS[1], ARGV[3], id)
    ids[#ids + 1] = id
  else
    gone = gone + 1
    redis.call('ZREM', KEYS[1], id)
    for _, app in ipairs(redis.call('SMEMBERS', KEYS[2])) do land(ARGV[1], app, id) end
  end
end
return { ids, gone }
