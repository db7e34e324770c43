-- release_artifact: an artifact does not come; the room for it is given back.
--
-- KEYS 1 the request's artifacts  2 bytes kept
-- ARGV 1 put  2 what one counts as at least
-- Answers: 1 if there was room for it, else 0

local key = KEYS[1]
local reserved = redis.call('HGET', key, 'p:' .. ARGV[1])
if not reserved then return 0 end
local bytes = string.match(reserved, '^(%d+) ')
redis.call('HDEL', key, 'p:' .. ARGV[1])
redis.call('HINCRBY', key, 'bytes', -bytes)
charge(key, KEYS[2], redis.call('HGET', key, 'tenant'), -counted(bytes, ARGV[2]))
return 1
