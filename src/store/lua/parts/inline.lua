-- Requests that travel with other answers.

-- Bytes up to which a request travels with what else is told of its run. A larger one is fetched by
-- who needs it, within a budget.
local INLINE_BYTES = 65536
