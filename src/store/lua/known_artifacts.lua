-- known_artifacts: which requests may have artifacts. Only reads.
--
-- KEYS 1 requests that may have artifacts
-- ARGV run ids and nonces, with a space between each two
-- Answers: for each, 1 if it may, else 0

local known = {}
for i, member in ipairs(ARGV) do
  known[i] = redis.call('ZSCORE', KEYS[1], member) and 1 or 0
end
return known
