-- Results.

-- A result's JSON, from what the caller knows and what only the run's hash does. `head` goes up to
-- the payload. What is not known is null.
local function result(run, head, payload, exit)
  local machine = 'null'
  if run.machine_id then
    machine = '{"app":"' .. run.app .. '","id":"' .. run.machine_id .. '","region":'
      .. (run.region and ('"' .. run.region .. '"') or 'null') .. '}'
  end
  return head .. payload .. ',"exit":' .. exit .. ',"attempts":' .. (run.tries or 'null')
    .. ',"tenant":' .. (run.tenant and ('"' .. run.tenant .. '"') or 'null') .. ',"metadata":' .. (run.metadata or 'null')
    .. ',"machine":' .. machine .. ',"submitted_at_ms":' .. (run.submitted_at_ms or 'null')
    .. ',"booting_at_ms":' .. (run.booting_at_ms or 'null')
    .. ',"running_at_ms":' .. (run.running_at_ms or 'null')
    .. ',"settled_at_ms":' .. run.settled_at_ms .. '}'
end
