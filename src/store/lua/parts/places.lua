-- Of a run's place in its tenant's queue.

-- Places of one priority: 49 bits count the requests of a namespace's life.
local PER_PRIORITY = 562949953421312
