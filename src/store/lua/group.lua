-- group: the workers' group of a stream, from the stream's beginning, is there.
--
-- KEYS 1 the stream
-- ARGV 1 group
-- Answers: 1

local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
if made.err and not string.find(made.err, 'BUSYGROUP', 1, true) then return made end
return 1
