-- keep_artifact: an artifact is where it is kept, and takes the place of an earlier one of its name.
--
-- KEYS 1 run hash  2 the request's artifacts  3 bytes kept
-- ARGV 1 attempt  2 nonce  3 moves  4 put  5 name  6 its record  7 what one counts as at least
-- Answers: { "kept", the put that brought the earlier one ("": none) }, { "denied", "" } (the token
--      opens nothing now), { "unknown", "" } (there is no room for it any more)

local run = read(KEYS[1], { 'state', 'attempt', 'nonce', 'tenant' })
if not run.state or run.attempt ~= ARGV[1] or run.nonce ~= ARGV[2] or not target(ARGV[3], run.state) then
  return { 'denied', '' }
end
local key = KEYS[2]
if redis.call('HDEL', key, 'p:' .. ARGV[4]) == 0 then return { 'unknown', '' } end
local earlier = redis.call('HGET', key, 'f:' .. ARGV[5])
redis.call('HSET', key, 'f:' .. ARGV[5], ARGV[6])
if not earlier then return { 'kept', '' } end
local put, bytes = string.match(earlier, '^(%w+) (%d+) ')
redis.call('HINCRBY', key, 'bytes', -bytes)
charge(key, KEYS[3], run.tenant, -counted(bytes, ARGV[7]))
return { 'kept', put }
