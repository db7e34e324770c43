-- unread: whether a request that was appended before an order is still on its stream. The entry
-- stays here: it may be large.
--
-- KEYS 1 requests stream
-- ARGV 1 id of the order
-- Answers: 1, or 0 when there is none

return #redis.call('XRANGE', KEYS[1], '-', ARGV[1], 'COUNT', 1)
