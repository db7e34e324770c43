-- keyrings: a process's heartbeat: it tells what it is and which signing keys it has, and reads what the
-- others told, the clock, and which data set this is.
--
-- KEYS 1 keyrings  2 quiet  3 meta
-- ARGV 1 which process  2 its keys ("": it ends)  3 now, ms  4 how long what is told counts, ms
--      5 processes that are kept at the most  6 the epoch to be if there is none  7 the epoch that the
--      process knows ("": none)  8 its schema version
-- Answers: { what each process told within that time, its own included; 1 if this one is to take no more
--      work, else 0; Redis's clock, seconds and microseconds: nothing if this user may not read it; {
--      epoch, the epoch known before it, schema version, heartbeats so far } }

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
if ARGV[2] == '' then return { standing, 0, {}, {} } end
local time = redis.pcall('TIME')
local meta = redis.call('HMGET', KEYS[3], 'epoch', 'before', 'schema')
if not meta[1] then
  meta = { ARGV[6], ARGV[7], ARGV[8] }
  redis.call('HSET', KEYS[3], 'epoch', meta[1], 'before', meta[2], 'schema', meta[3])
elseif (tonumber(meta[3]) or 0) < tonumber(ARGV[8]) then
  meta[3] = ARGV[8]
  redis.call('HSET', KEYS[3], 'schema', meta[3])
end
local beats = redis.call('HINCRBY', KEYS[3], 'beats', 1)
return {
  standing,
  redis.call('SISMEMBER', KEYS[2], ARGV[1]),
  time.err and {} or time,
  { meta[1], meta[2] or '', meta[3], tostring(beats) },
}
