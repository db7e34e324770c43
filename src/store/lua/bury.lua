-- bury: an entry that is not what its stream is for is set aside, as it came. In one step, so that
-- two who do it, or one who does it again since the answer was lost, set it aside once.
--
-- KEYS 1 the entry's stream  2 dead stream
-- ARGV 1 group  2 entry id  3 dead entries kept  4… fields and values
-- Answers: 1, or 0 when it had been set aside already

redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
if redis.call('XDEL', KEYS[1], ARGV[2]) == 0 then return 0 end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', unpack(ARGV, 4))
return 1
