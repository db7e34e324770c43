-- quiet: a worker is to take no more work, or to take work again.
--
-- KEYS 1 quiet
-- ARGV 1 the worker's name  2 "1" for no more work, "" for work again  3 workers at the most
--      4 how long that is known, ms
-- Answers: 1, or 0 when as many are quiet as may be

if ARGV[2] == '' then
  redis.call('SREM', KEYS[1], ARGV[1])
  return 1
end
if redis.call('SCARD', KEYS[1]) >= tonumber(ARGV[3]) then return redis.call('SISMEMBER', KEYS[1], ARGV[1]) end
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
