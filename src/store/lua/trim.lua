-- trim: results that may go are removed, and it is noted since when there are results.
--
-- KEYS 1 results stream  2 bytes of results kept
-- ARGV 1 id before which they go  2 most entries that stay (0: any number)  3 now, ms
-- Answers: how many were removed

local removed = redis.call('XTRIM', KEYS[1], 'MINID', ARGV[1])
if ARGV[2] ~= '0' then removed = removed + redis.call('XTRIM', KEYS[1], 'MAXLEN', ARGV[2]) end
-- A consumer may have deleted the first ones itself.
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
redis.call('HSET', KEYS[2], 'since', first and string.match(first[1], '^%d+') or ARGV[3])
return removed
