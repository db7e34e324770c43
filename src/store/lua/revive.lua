-- revive: a dead entry goes back on the requests stream, as it came. In one step, so that two who
-- do it at once put it back once.
--
-- KEYS 1 dead stream  2 requests stream
-- ARGV 1 entry id
-- Answers: the new entry's id, or nil when there is no such entry

local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not found then return false end
local fields = found[2]
-- The last two, reason and source_id, were put there when it was set aside.
local id = redis.call('XADD', KEYS[2], '*', unpack(fields, 1, #fields - 4))
redis.call('XDEL', KEYS[1], ARGV[1])
return id
