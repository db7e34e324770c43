-- forget_app: an app that no run is in is no longer among those that had machines.
--
-- KEYS 1 apps  2 runs that may have a machine in the app
-- ARGV 1 the app
-- Answers: 1, or 0 when it was not among them or a run is in it

if redis.call('HLEN', KEYS[2]) > 0 then return 0 end
return redis.call('SREM', KEYS[1], ARGV[1])
