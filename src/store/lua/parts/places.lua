-- A run's place in its tenant's queue: its score there.

-- Places of one priority: 49 bits count the requests of a namespace's life.
local PER_PRIORITY = 562949953421312
