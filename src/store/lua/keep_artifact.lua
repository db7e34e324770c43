-- keep_artifact: an artifact is where it is kept, and takes the place of an earlier one of its name,
-- whose room stays taken until its bytes are removed and it is released.
--
-- KEYS 1 run hash  2 the request's artifacts
-- ARGV 1 attempt  2 nonce  3 moves  4 put  5 name  6 its record  7 the room
--      of an earlier one is kept until, ms
-- Answers: { "kept", the put that brought the earlier one ("": none) }, { "denied", "" } (the token
--      opens nothing now), { "unknown", "" } (there is no room for it any more)

local run = read(KEYS[1], { 'state', 'attempt', 'nonce' })
if not run.state or run.attempt ~= ARGV[1] or run.nonce ~= ARGV[2] or not target(ARGV[3], run.state) then
  return { 'denied', '' }
end
local key = KEYS[2]
if redis.call('HDEL', key, 'p:' .. ARGV[4]) == 0 then return { 'unknown', '' } end
local earlier = redis.call('HGET', key, 'f:' .. ARGV[5])
redis.call('HSET', key, 'f:' .. ARGV[5], ARGV[6])
if not earlier then return { 'kept', '' } end
local put, bytes = string.match(earlier, '^(%w+) (%d+) ')
redis.call('HSET', key, 'p:' .. put, table.concat({ bytes, ARGV[7], ARGV[5] }, ' '))
return { 'kept', put }
