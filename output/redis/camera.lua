-- Adds a batch of one camera's events to its stream, each exactly once and in
-- order, and keeps the camera's last state. All or nothing.
--
-- KEYS: the stream, the state hash.
-- ARGV: the last id that the caller knows to be there (ms, seq; 0 0 for none),
--       MAXLEN (0 none), MINID (0 none), the notice's channel ('' none),
--       how many state arguments follow and these,
--       then for each event: ms, seq, how many arguments follow, fields and values.
-- Returns how many were new and the stream's last id.
local lastMS, lastSeq = '0', '0'
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
if info.err then
  if not string.find(info.err, 'no such key', 1, true) then return info end
else
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      lastMS, lastSeq = string.match(info[i + 1], '^(%d+)-(%d+)$')
    end
  end
end
local ms, seq = tonumber(lastMS), tonumber(lastSeq)
local wantMS, wantSeq = tonumber(ARGV[1]), tonumber(ARGV[2])
if ms < wantMS or (ms == wantMS and seq < wantSeq) then
  return redis.error_reply('REWIND the stream ends at ' .. lastMS .. '-' .. lastSeq ..
    ', but ' .. ARGV[1] .. '-' .. ARGV[2] .. ' had been added')
end

local states = tonumber(ARGV[6])
local added, i = 0, 7 + states
while i <= #ARGV do
  local m, s, n = tonumber(ARGV[i]), tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  -- Neither part above the last id's: it is there already. A higher number at an
  -- earlier time (a clock that was set back) goes in under the last id's time. A
  -- lower number at a later time is a sequence that was begun anew.
  if s > seq or m > ms then
    if m > ms then ms, lastMS = m, ARGV[i] end
    seq, lastSeq = s, ARGV[i + 1]
    redis.call('XADD', KEYS[1], lastMS .. '-' .. lastSeq, unpack(ARGV, i + 3, i + 2 + n))
    added = added + 1
  end
  i = i + 3 + n
end

if added > 0 then
  if ARGV[3] ~= '0' then redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', ARGV[3]) end
  if ARGV[4] ~= '0' then redis.call('XTRIM', KEYS[1], 'MINID', '~', ARGV[4]) end
  if states > 0 then redis.call('HSET', KEYS[2], 'last_id', lastMS .. '-' .. lastSeq, unpack(ARGV, 7, 6 + states)) end
  if ARGV[5] ~= '' then redis.pcall('PUBLISH', ARGV[5], lastMS .. '-' .. lastSeq) end
end
return {added, lastMS .. '-' .. lastSeq}
