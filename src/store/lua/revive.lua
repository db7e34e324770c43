-- revive: a dead entry goes back on the stream that it came from, as it came. In one step, so that
-- two who do it at once put it back once.
--
-- KEYS 1 dead stream  2 requests stream  3 orders stream
-- ARGV 1 entry id
-- Answers: the new entry's id, or nil when there is no such entry

local ORDERS = { cancel = true, cancel_tenant = true, pause = true, resume = true }
local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not found then return false end
local fields = found[2]
-- The last ones, reason, source_id and source_stream, were put there when it was set aside.
local last, to = #fields - 6, KEYS[2]
if fields[#fields - 1] == 'source_stream' then
  if fields[#fields] == 'control' then to = KEYS[3] end
else
  -- Set aside by a version that did not tell the stream: its first field says what it was meant as.
  last = #fields - 4
  if ORDERS[fields[1]] then to = KEYS[3] end
end
local id = redis.call('XADD', to, '*', unpack(fields, 1, last))
redis.call('XDEL', KEYS[1], ARGV[1])
return id
