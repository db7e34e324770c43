-- pending_artifact: what is on its way by one put. Only reads.
--
-- KEYS 1 run hash  2 the request's artifacts
-- ARGV 1 attempt  2 nonce  3 moves  4 put  5 name
-- Answers: its bytes; "denied" (the token opens nothing now), "unknown" (nothing is on its way)

local run = read(KEYS[1], { 'state', 'attempt', 'nonce' })
if not run.state or run.attempt ~= ARGV[1] or run.nonce ~= ARGV[2] or not target(ARGV[3], run.state) then
  return 'denied'
end
local bytes, name = string.match(redis.call('HGET', KEYS[2], 'p:' .. ARGV[4]) or '', '^(%d+) %d+ (.*)$')
return name == ARGV[5] and bytes or 'unknown'
