-- Adds a batch of several cameras' events to the stream of all cameras, each
-- exactly once and in each camera's order. The cameras' own numbers cannot order
-- one stream of several, so ids are the server's; what each camera has delivered
-- is kept in a hash of the same slot. All or nothing.
--
-- KEYS: the stream, the hash of the newest "ms-seq" by camera.
-- ARGV: MAXLEN (0 none), MINID (0 none), how many cameras follow, for each its
--       name and the newest ms and seq that the caller knows to be there,
--       then for each event: camera, ms, seq, how many arguments follow, fields and values.
-- Returns how many were new, then the newest "ms-seq" of each camera, in ARGV's order.
local last = {}
local names = {}
local i = 4
for n = 1, tonumber(ARGV[3]) do
  local name = ARGV[i]
  local have = redis.call('HGET', KEYS[2], name) or '0-0'
  local ms, seq = string.match(have, '^(%d+)-(%d+)$')
  local c = {ms = tonumber(ms), seq = tonumber(seq), id = have}
  local wantMS, wantSeq = tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  if c.ms < wantMS or (c.ms == wantMS and c.seq < wantSeq) then
    return redis.error_reply('REWIND ' .. name .. ' ends at ' .. have ..
      ', but ' .. ARGV[i + 1] .. '-' .. ARGV[i + 2] .. ' had been added')
  end
  last[name], names[n] = c, name
  i = i + 3
end

local added = 0
while i <= #ARGV do
  local c = last[ARGV[i]]
  local m, s, n = tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  if s > c.seq or m > c.ms then
    redis.call('XADD', KEYS[1], '*', unpack(ARGV, i + 4, i + 3 + n))
    if m > c.ms then c.ms, c.id = m, ARGV[i + 1] .. '-' .. ARGV[i + 2]
    else c.id = string.match(c.id, '^%d+') .. '-' .. ARGV[i + 2] end
    c.seq, c.new = s, true
    added = added + 1
  end
  i = i + 4 + n
end

local reply = {added}
for n, name in ipairs(names) do
  if last[name].new then redis.call('HSET', KEYS[2], name, last[name].id) end
  reply[n + 1] = last[name].id
end
if added > 0 then
  if ARGV[1] ~= '0' then redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', ARGV[1]) end
  if ARGV[2] ~= '0' then redis.call('XTRIM', KEYS[1], 'MINID', '~', ARGV[2]) end
end
return reply
