-- probe: whether Redis takes our writes, and whether keys that others can make are what they should be.
--
-- KEYS 1 a key to write to, then keys to look at
-- ARGV 1 how long what is written lives, ms, then for each key to look at: its type
-- Answers: nil when all is well, else { key, its type }

for i = 2, #KEYS do
  local found = redis.call('TYPE', KEYS[i]).ok
  if found ~= 'none' and found ~= ARGV[i] then return { KEYS[i], found } end
end
redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])
return false
