-- small: a few small writes that must not be refused when Redis is full.
--
-- KEYS 1 the key that they are of
-- ARGV for each write: number of words, the command, its words after the key
-- Answers: 1

local at = 1
while at <= #ARGV do
  local n = tonumber(ARGV[at])
  redis.call(ARGV[at + 1], KEYS[1], unpack(ARGV, at + 2, at + n))
  at = at + n + 1
end
return 1
