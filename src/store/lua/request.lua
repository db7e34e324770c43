-- request: a run's request, if it is small enough to travel at once. Only reads.
--
-- KEYS 1 run hash  2 the run's request
-- Answers: { attempt ("": not known), nonce ("": none), bytes, JSON ("": too large) }, or nil when there is no request

local bytes = redis.call('STRLEN', KEYS[2])
if bytes == 0 then return false end
local json = bytes <= INLINE_BYTES and redis.call('GET', KEYS[2]) or ''
local run = redis.call('HMGET', KEYS[1], 'attempt', 'nonce')
return { run[1] or '', run[2] or '', bytes, json }
