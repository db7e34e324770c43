-- take_token: a boot that is under way needs another create call, which takes a token of its app's
-- bucket too; one that is not there yet if it will be soon.
--
-- KEYS 1 the app's bucket
-- ARGV 1 namespace  2 app  3 now, ms  4 boots per second and app (more than 0)  5 burst  6 how
--      long the caller waits at the most, ms
-- Answers: { 1 if a token was taken else 0, when the call may go, ms }

local now, rate, burst = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local app = bucket(ARGV[1], ARGV[2], now, rate, burst)
local at = math.max(now, app.free_at)
if at - now > tonumber(ARGV[6]) then return { 0, at } end
app.tokens = app.tokens - 1
keep(ARGV[1], app, rate, burst)
return { 1, at }
