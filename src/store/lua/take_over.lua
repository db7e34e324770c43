-- take_over: entries that some worker read and did not dispose of for long, bounded in bytes.
--
-- KEYS 1 the stream
-- ARGV 1 group  2 consumer  3 most entries  4 bytes after which there are no more
--      5 bytes of an entry above which its fields stay here  6 idle for this long at least, ms
-- Answers: { { { id, fields, bytes that stay here (0: none do) }, … }, 1 if more may be there, else 0 }

local entries, bytes, from = {}, 0, '0-0'
-- A call may pass over entries that are not idle; a bound on the calls.
for _ = 1, 2 * tonumber(ARGV[3]) do
  local reply = redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[6], from, 'COUNT', 1)
  for _, entry in ipairs(reply[2]) do
    entries[#entries + 1], bytes = travelling(entry, bytes, ARGV[5])
  end
  from = reply[1]
  if from == '0-0' then return { entries, 0 } end
  if #entries >= tonumber(ARGV[3]) or bytes >= tonumber(ARGV[4]) then break end
end
return { entries, 1 }
