-- log: a piece of what a guest wrote goes to the end of its run's log. The oldest pieces make room.
--
-- KEYS 1 run hash  2 the run's log
-- ARGV 1 namespace  2 attempt  3 nonce ("": none)  4 now, ms  5 the log is kept for so long, ms
--      6 most bytes of it  7 most bytes of all logs (0: any number)  8 the same of one tenant
--      9 length of a slice in which they are counted, ms  10 stream  11 text
--      12 bytes that were left out before it
-- Answers: "kept", "full" (as many bytes of logs are kept as may), "denied" (not this boot's run, or its
--      machine is gone)

local ns, text, now = ARGV[1], ARGV[11], tonumber(ARGV[4])
-- What a piece costs beside its text. It also bounds how many there are.
local PIECE_BYTES = 64
local run = read(KEYS[1], { 'state', 'attempt', 'nonce', 'tenant', 'log_bytes', 'log_dropped' })
local is_its_own = run.attempt == ARGV[2] and (run.nonce or '') == ARGV[3]
if not is_its_own or run.state == 'queued' or run.state == 'closed' then return 'denied' end

local bytes = tonumber(run.log_bytes or '0')
local dropped = tonumber(run.log_dropped or '0') + tonumber(ARGV[12])
local costs = #text + PIECE_BYTES
local function is_over(key, most)
  if most == 0 then return false end
  local kept = kept_bytes(key, now - tonumber(ARGV[5]), tonumber(ARGV[9]), now, 2 * ARGV[5])
  return kept + costs > most
end
local all, own = logs_key(ns), logs_of_key(ns, run.tenant)
local most, own_most = tonumber(ARGV[7]), tonumber(ARGV[8])
if is_over(all, most) or is_over(own, own_most) then
  redis.call('HSET', KEYS[1], 'log_dropped', dropped + #text)
  return 'full'
end
if most > 0 then redis.call('HINCRBY', all, 'sum', costs) end
if own_most > 0 then redis.call('HINCRBY', own, 'sum', costs) end

redis.call('XADD', KEYS[2], '*', 'at_ms', ARGV[4], 'stream', ARGV[10], 'text', text)
bytes = bytes + costs
while bytes > tonumber(ARGV[6]) do
  local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
  if not first then break end
  redis.call('XDEL', KEYS[2], first[1])
  bytes, dropped = bytes - #first[2][6] - PIECE_BYTES, dropped + #first[2][6]
end
redis.call('HSET', KEYS[1], 'log_bytes', bytes, 'log_dropped', dropped)
redis.call('PEXPIRE', KEYS[2], ARGV[5])
return 'kept'
