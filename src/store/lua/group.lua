-- group: a group of a stream is there.
--
-- KEYS 1 the stream
-- ARGV 1 group  2 where a new one begins: "0" with all entries, "$" with those to come
-- Answers: 1

local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], ARGV[2], 'MKSTREAM')
if made.err and not string.find(made.err, 'BUSYGROUP', 1, true) then return made end
return 1
