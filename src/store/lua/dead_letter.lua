-- dead_letter: an entry that is not what its stream is for is set aside, as it came. In one step, so that
-- two who do it, or one who does it again since the answer was lost, set it aside once.
--
-- KEYS 1 the entry's stream  2 dead stream
-- ARGV 1 group  2 entry id  3 dead entries kept  4 words of its fields kept  5 reason
--      6 the stream by its short name (runs, control)
-- Answers: 1, or 0 when it had been set aside already

return dead_letter(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]) and 1 or 0
