-- input: a piece of a run's input, without the rest of its request. Only reads.
--
-- KEYS 1 run hash  2 request
-- ARGV 1 first byte wanted  2 most bytes
-- Answers: nil when there is no such run or it is over, else its attempt, its nonce ("": none), the
--      bytes of the input in all, and the piece. For a run that an older version admitted: attempt,
--      nonce, -1, and the whole request.

local run = read(KEYS[1], { 'attempt', 'nonce', 'input_span', 'settled_at_ms' })
-- The request of a run that is over may be kept.
if not run.attempt or run.settled_at_ms or redis.call('EXISTS', KEYS[2]) == 0 then return false end
local attempt, nonce = tonumber(run.attempt), run.nonce or ''
if not run.input_span then return { attempt, nonce, -1, redis.call('GET', KEYS[2]) } end
local start, bytes = string.match(run.input_span, '^(%d+) (%d+)$')
local first = tonumber(ARGV[1])
local most = math.min(tonumber(ARGV[2]), bytes - first)
local piece = most > 0 and redis.call('GETRANGE', KEYS[2], start + first, start + first + most - 1) or ''
return { attempt, nonce, tonumber(bytes), piece }
