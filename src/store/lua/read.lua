-- read: new entries for a consumer of the workers' group, bounded in bytes.
--
-- KEYS 1 the stream
-- ARGV 1 group  2 consumer  3 most entries  4 bytes after which there are no more
--      5 bytes of an entry above which its fields stay here
-- Answers: { { { id, fields, bytes that stay here (0: none do) }, … }, 1 if more may be there, else 0 }

local entries, bytes = {}, 0
while #entries < tonumber(ARGV[3]) and bytes < tonumber(ARGV[4]) do
  local reply = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', 1, 'STREAMS', KEYS[1], '>')
  if not reply then return { entries, 0 } end
  entries[#entries + 1], bytes = travelling(reply[1][2][1], bytes, ARGV[5])
end
return { entries, 1 }
