"""Lists, hashes, sets, sorted sets and streams, in Lua: functions of the script (see there)."""

from typing import Final

COLLECTIONS: Final = """\
local function slice(key, first, last, values)
  local total, count = 0, 0
  while first <= last do
    local part = call('LRANGE', key, first, math.min(last, first + 31))
    for _, value in ipairs(part) do
      if total + #value > left then return total, false end
      total, count = total + #value, count + 1
      values[count] = value
    end
    first = first + 32
  end
  return total, true
end
local function bounds(start, stop, length)
  if start < 0 then start = math.max(0, start + length) end
  if stop < 0 then stop = stop + length end
  stop = math.min(stop, length - 1)
  if start > stop then return 0, -1 end
  return start, stop
end
function C.POP(K, A)
  local length, count = call('LLEN', K[1]), tonumber(A[2])
  local first, last = bounds(0, count - 1, length)
  if A[1] == 'RPOP' then first, last = bounds(-count, -1, length) end
  local total, whole = slice(K[1], first, last, {})
  if not whole then return fail('TOOMUCH') end
  spend(total)
end
function F.POP(K, A)
  local values = pcall_(A[1], K[1], A[2])
  return values or {}
end
function F.LRANGE(K, A)
  local length = pcall_('LLEN', K[1])
  if failed(length) then return length end
  local first, last = bounds(tonumber(A[1]), tonumber(A[2]), length)
  local values = {}
  spend((slice(K[1], first, math.min(last, first + A[3] - 1), values)))
  return {length, last - first + 1, values}
end
function F.LTRIM(K, A)
  local done = pcall_('LTRIM', K[1], A[1], A[2])
  if failed(done) then return done end
  return call('LLEN', K[1])
end
local function too_many(length, key, names, is_known)
  if length + #names <= @MAX_COLLECTION@ then return nil end
  local new, seen = 0, {}
  for _, name in ipairs(names) do
    if not seen[name] and call(is_known, key, name) == 0 then new = new + 1 end
    seen[name] = true
  end
  if new > 0 and length + new > @MAX_COLLECTION@ then return fail('TOOMANY') end
end
function C.HSET(K, A)
  local names = {}
  for i = 1, #A, 2 do names[#names + 1] = A[i] end
  return too_many(call('HLEN', K[1]), K[1], names, 'HEXISTS')
end
function F.HMGET(K, A)
  local total = pcall_('HLEN', K[1])
  if failed(total) then return total end
  total = 0
  for _, name in ipairs(A) do total = total + call('HSTRLEN', K[1], name) end
  if not spend(total) then return fail('TOOMUCH') end
  return call('HMGET', K[1], unpack(A))
end
function F.HEXPIREBY(K, A)
  local said = pcall_('HGET', K[1], A[1])
  local seconds = type(said) == 'string' and #said <= 10 and said:match('^[1-9]%d*$') and tonumber(said)
  if not seconds or seconds > @MAX_TTL_SECONDS@ then return 0 end
  return call('PEXPIRE', K[1], text(seconds * 1000))
end
function F.HGETALL(K)
  local length = pcall_('HLEN', K[1])
  if failed(length) then return length end
  if length > @MAX_COLLECTION@ then return fail('TOOMUCH') end
  local names, out, total = call('HKEYS', K[1]), {}, 0
  for i = 1, length, 50 do
    local values = call('HMGET', K[1], unpack(names, i, math.min(length, i + 49)))
    for j, value in ipairs(values) do
      local name = names[i + j - 1]
      total = total + #name + #value
      out[#out + 1] = name
      out[#out + 1] = value
    end
    if total > left then return fail('TOOMUCH') end
  end
  spend(total)
  return out
end
function C.SADD(K, A) return too_many(call('SCARD', K[1]), K[1], A, 'SISMEMBER') end
function F.SMEMBERS(K)
  local length = pcall_('SCARD', K[1])
  if failed(length) then return length end
  if length > @MAX_COLLECTION@ then return fail('TOOMUCH') end
  local members, total = call('SMEMBERS', K[1]), 0
  for _, member in ipairs(members) do total = total + #member end
  if not spend(total) then return fail('TOOMUCH') end
  return members
end
local function ranked(size, pairs_)
  local total = 0
  for i = 1, #pairs_, 2 do total = total + #pairs_[i] end
  if not spend(total) then return fail('TOOMUCH') end
  return {size, pairs_}
end
function F.ZRANGE(K, A)
  local length = pcall_('ZCARD', K[1])
  if failed(length) then return length end
  local first, last = bounds(tonumber(A[1]), tonumber(A[2]), length)
  local size = last - first + 1
  if size == 0 then return {0, {}} end
  last = math.min(last, first + A[4] - 1)
  if A[3] == '1' then return ranked(size, call('ZRANGE', K[1], first, last, 'REV', 'WITHSCORES')) end
  return ranked(size, call('ZRANGE', K[1], first, last, 'WITHSCORES'))
end
function F.ZBYSCORE(K, A)
  local size = pcall_('ZCOUNT', K[1], A[1], A[2])
  if failed(size) then return size end
  if size == 0 then return {0, {}} end
  if A[3] == '1' then
    return ranked(size, call('ZRANGE', K[1], A[2], A[1], 'BYSCORE', 'REV', 'LIMIT', A[4], A[5], 'WITHSCORES'))
  end
  return ranked(size, call('ZRANGE', K[1], A[1], A[2], 'BYSCORE', 'LIMIT', A[4], A[5], 'WITHSCORES'))
end
function C.ZINCRBY(K, A)
  local sum = tonumber(call('ZSCORE', K[1], A[2]) or 0) + tonumber(A[1])
  if sum ~= sum or sum == math.huge or sum == -math.huge then return fail('OVERFLOW') end
end
function F.XRANGE(K, A)
  local command, from, to, count = 'XRANGE', A[1], A[2], tonumber(A[4])
  if A[3] == '1' then command, from, to = 'XREVRANGE', A[2], A[1] end
  local out, total = {}, 0
  while true do
    local part = pcall_(command, K[1], from, to, 'COUNT', math.min(16, count - #out + 1))
    if failed(part) then
      if #out == 0 then return part end
      part = {}
    end
    for _, entry in ipairs(part) do
      local size = 0
      for _, field in ipairs(entry[2]) do size = size + #field end
      if total + size > left and #out == 0 then return fail('TOOMUCH') end
      if #out == count or total + size > left then
        spend(total)
        return {1, out}
      end
      total = total + size
      out[#out + 1] = entry
    end
    if #part == 0 then
      spend(total)
      return {0, out}
    end
    from = '(' .. out[#out][1]
  end
end
"""
