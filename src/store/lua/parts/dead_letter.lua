-- Entries that are set aside on the dead stream.

-- Sets an entry of a stream aside on the dead stream, as it came, with the reason. Its fields are
-- copied here and do not travel. Answers whether it was there.
local function dead_letter(stream, dead, group, id, most, words_most, reason, short)
  local found = redis.call('XRANGE', stream, id, id)[1]
  if found then
    local words = found[2]
    local kept = math.min(#words, tonumber(words_most))
    local ours = { 'reason', reason, 'source_id', id, 'source_stream', short }
    for i, word in ipairs(ours) do words[kept + i] = word end
    redis.call('XADD', dead, 'MAXLEN', most, '*', unpack(words, 1, kept + #ours))
  end
  -- Only now: an entry that could not be kept stays pending, and comes again.
  redis.call('XACK', stream, group, id)
  redis.call('XDEL', stream, id)
  return found ~= nil
end
