-- Entries of a stream on their way to a worker.

-- An entry as it is answered: its id, its fields, and 0; or no fields, and how many bytes they are,
-- when these are more than may travel. Answers too how many bytes travel with those before it.
local function travelling(entry, before, most)
  local bytes = 0
  for _, word in ipairs(entry[2]) do bytes = bytes + #word end
  if bytes > tonumber(most) then return { entry[1], {}, bytes }, before end
  return { entry[1], entry[2], 0 }, before + bytes
end
