-- keyrings: a process's heartbeat: it tells what it is and which signing keys it has, and reads what the
-- others told.
--
-- KEYS 1 keyrings  2 quiet
-- ARGV 1 which process  2 its keys ("": it ends)  3 now, ms  4 how long what is told counts, ms
--      5 processes that are kept at the most
-- Answers: { what each process told within that time, its own included; 1 if this one is to take no more
--      work, else 0 }

local now, max_age = tonumber(ARGV[3]), tonumber(ARGV[4])
redis.call('HDEL', KEYS[1], ARGV[1])
local known, standing = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #known, 2 do
  local at, keys = string.match(known[i + 1], '^(%d+) (.*)$')
  if at and math.abs(now - tonumber(at)) < max_age then
    standing[#standing + 1] = keys
  else
    redis.call('HDEL', KEYS[1], known[i])
  end
end
if ARGV[2] ~= '' then
  if #standing < tonumber(ARGV[5]) then
    redis.call('HSET', KEYS[1], ARGV[1], ARGV[3] .. ' ' .. ARGV[2])
  end
  standing[#standing + 1] = ARGV[2]
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return { standing, redis.call('SISMEMBER', KEYS[2], ARGV[1]) }
