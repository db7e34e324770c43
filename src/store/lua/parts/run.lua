-- A run's hash. The states that an event is accepted from, and where each leads, come in as ARGV,
-- computed from run::step: moves, "from:to,from:to". A script names a state itself only for what must
-- be written beside the new state.

-- The state that `state` leads to, or nil when the event is not accepted in it. No state's name
-- ends in another's.
local function target(moves, state)
  return string.match(moves, state .. ':(%a+)')
end

-- Whether a state is one of a list (",a,b,").
local function is_one_of(state, states)
  return state and string.find(states, ',' .. state .. ',', 1, true)
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
