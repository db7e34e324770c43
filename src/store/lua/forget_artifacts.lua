-- forget_artifacts: no artifact of a request is kept any more.
--
-- KEYS 1 the request's artifacts  2 requests that may have artifacts  3 bytes kept
-- ARGV 1 run id and nonce, with a space between
-- Answers: 1 if it was known, else 0

local of = redis.call('HMGET', KEYS[1], 'tenant', 'charged')
if of[1] then
  charge(KEYS[1], KEYS[3], of[1], -of[2])
  redis.call('DEL', KEYS[1])
end
local was_known = redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('EXISTS', KEYS[2]) == 0 then redis.call('DEL', KEYS[3]) end
return was_known
