-- bury: an entry that is not what its stream is for is set aside, as it came. In one step, so that
-- two who do it, or one who does it again since the answer was lost, set it aside once. Its fields
-- are copied here and do not travel.
--
-- KEYS 1 the entry's stream  2 dead stream
-- ARGV 1 group  2 entry id  3 dead entries kept  4 words of its fields kept  5 reason
--      6 the stream by its short name (runs, control)
-- Answers: 1, or 0 when it had been set aside already

local found = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1]
if not found then
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
  return 0
end
local words = found[2]
local kept = math.min(#words, tonumber(ARGV[4]))
local ours = { 'reason', ARGV[5], 'source_id', ARGV[2], 'source_stream', ARGV[6] }
for i, word in ipairs(ours) do words[kept + i] = word end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', unpack(words, 1, kept + #ours))
-- Only now: an entry that could not be kept stays pending, and comes again.
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[2])
return 1
