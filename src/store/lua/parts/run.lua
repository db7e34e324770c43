-- Of a run's hash: stands in front of every script that moves runs. No script decides policy: what
-- is accepted comes in as ARGV, computed from run::step.
--
-- moves: "from:to,from:to", the states an event is accepted from and where each leads.

-- The state that `state` leads to, or nil when the event is not accepted in it. No state's name
-- ends in another's.
local function target(moves, state)
  return string.match(moves, state .. ':(%a+)')
end

-- The named fields of a hash as a table; absent ones are absent.
local function read(key, names)
  local values, run = redis.call('HMGET', key, unpack(names)), {}
  for i, name in ipairs(names) do
    if values[i] then run[name] = values[i] end
  end
  return run
end

-- Adds a field to the words of a write, unless its value is "": not known.
local function know(words, field, value)
  if value == '' then return end
  words[#words + 1] = field
  words[#words + 1] = value
end
