-- forget: consumers that have nothing pending and were not seen for long leave the group. In one
-- step: with an entry that a consumer reads in between it would lose that entry for ever.
--
-- KEYS 1 the stream
-- ARGV 1 group  2 idle for this long at least, ms  3 most of them  4 only this one ("": any)
-- Answers: how many left

local forgotten = 0
for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local told = {}
  for i = 1, #flat, 2 do told[flat[i]] = flat[i + 1] end
  local is_meant = ARGV[4] == '' or told.name == ARGV[4]
  if is_meant and told.pending == 0 and told.idle >= tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], told.name)
    forgotten = forgotten + 1
    if forgotten >= tonumber(ARGV[3]) then break end
  end
end
return forgotten
