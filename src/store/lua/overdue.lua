-- overdue: runs that are due, each leased to the caller by moving its due time.
-- What is no run's id is removed.
--
-- KEYS 1 due
-- ARGV 1 namespace  2 now, ms  3 lease until, ms  4 most
-- Answers: { { id, … }, { id of a run whose hash is gone, … } }

local ids, lost = {}, {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[2], 'LIMIT', 0, ARGV[4])) do
  if not string.find(id, '^[%w_-]+$') or #id > 64 then
    redis.call('ZREM', KEYS[1], id)
  else
    redis.call('ZADD', KEYS[1], ARGV[3], id)
    local list = redis.call('EXISTS', run_key(ARGV[1], id)) == 1 and ids or lost
    list[#list + 1] = id
  end
end
return { ids, lost }
