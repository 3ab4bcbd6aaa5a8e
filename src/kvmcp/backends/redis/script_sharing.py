"""Channels with their logs and queues with claims, in Lua: functions of the script (see there).

The log is a stream with entries `number-0`: m the message, b the bytes of all messages up to it, t milliseconds. Its
numbers are a hash: first, last. A queue's claims are a hash (receipt: `deliveries length owner value`) and a sorted set
(receipt by the millisecond when the claim ends).
"""

from typing import Final

SHARING: Final = """\
function C.PUBLISH(K, A)
  if not may(A[1], K[3], A[2]) then return fail('NOPERM') end
  if other(K[1], 'stream') or other(K[2], 'hash') then return fail('WRONGTYPE') end
end
local function field(entry, name)
  for i = 1, #entry[2], 2 do if entry[2][i] == name then return entry[2][i + 1] end end
end
function F.PUBLISH(K, A)
  local log, numbers, message, now = K[1], K[2], A[2], micros() / 1000
  local last = tonumber(call('HGET', numbers, 'last') or nil)
  local newest, count, kept = call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1], call('XLEN', log), 0
  local before = newest and tonumber(field(newest, 'b')) or 0
  local removed, from, done = 0, '-', false
  while count > removed and not done do
    local part = call('XRANGE', log, from, '+', 'COUNT', 4)
    for _, entry in ipairs(part) do
      local size = #field(entry, 'm')
      local upto = tonumber(field(entry, 'b'))
      kept = before - upto + size
      if count - removed < @LOG_MESSAGES@ and kept + #message <= @LOG_BYTES@
          and tonumber(field(entry, 't')) + @LOG_LIFE_MS@ > now then
        done = true
        break
      end
      removed = removed + 1
      from = '(' .. entry[1]
    end
  end
  local wrote
  if last then
    last = last + 1
    wrote = pcall_('HSET', numbers, 'last', text(last))
  else
    last = micros() + 1
    wrote = pcall_('HSET', numbers, 'first', text(last), 'last', text(last))
  end
  if failed(wrote) then return wrote end
  call('PEXPIRE', numbers, @LOG_COUNT_LIFE_MS@)
  if removed > 0 then call('XTRIM', log, 'MAXLEN', count - removed) end
  call('XADD', log, text(last) .. '-0', 'm', message, 'b', text(before + #message), 't', text(math.floor(now)))
  call('PEXPIRE', log, @LOG_LIFE_MS@)
  local reply = {0, text(last)}
  sends[#sends + 1] = {reply, A[1], K[3], '#' .. text(last) .. ' ' .. message}
  return reply
end
function F.READLOG(K, A)
  local now = micros()
  local numbers = pcall_('HMGET', K[2], 'first', 'last')
  if failed(numbers) then return numbers end
  local first, last = tonumber(numbers[1] or nil) or now + 1, tonumber(numbers[2] or nil) or now
  if A[1] == '' then return {text(last), 0, {}} end
  local after, lost = tonumber(A[1]), 0
  local since = first - @LOG_COUNT_LIFE_MS@ * 1000
  if after > 0 and (after > last or (after < first - 1 and after < since)) then lost = -1 end
  local wanted = lost == 0 and math.max(after + 1, first) or first
  local out, total, count, seen, from = {}, 0, tonumber(A[2]), nil, text(wanted) .. '-0'
  local cursor = last
  local full = false
  while not full do
    local part = pcall_('XRANGE', K[1], from, '+', 'COUNT', 64)
    if failed(part) then return part end
    if #part == 0 then break end
    for _, entry in ipairs(part) do
      if tonumber(field(entry, 't')) + @LOG_LIFE_MS@ > now / 1000 then
        local number, message = entry[1]:match('^%d+'), field(entry, 'm')
        seen = seen or tonumber(number)
        if total + #message > left and #out == 0 then return fail('TOOMUCH') end
        if #out == 2 * count or total + #message > left then
          full = true
          break
        end
        total = total + #message
        out[#out + 1] = number
        out[#out + 1] = message
        cursor = tonumber(number)
      end
      from = '(' .. entry[1]
    end
  end
  if after > 0 and lost == 0 then lost = (seen or last + 1) - wanted end
  spend(total)
  return {text(cursor), lost, out}
end
local function claim_of(packed)
  local deliveries, size, start = packed:match('^(%d+) (%d+) ()')
  return tonumber(deliveries), packed:sub(start + size)
end
function C.CLAIM(K, A, step)
  if other(K[1], 'list') or other(K[2], 'hash') or other(K[3], 'zset') then return fail('WRONGTYPE') end
  local count, total = tonumber(A[3]), 0
  local open = call('ZCARD', K[3])
  step.given, step.ended, step.taken = {}, {}, 0
  local ended = call('ZRANGEBYSCORE', K[3], '-inf', text(math.floor(micros() / 1000)), 'LIMIT', 0, count)
  for _, receipt in ipairs(ended) do
    local deliveries, value = claim_of(call('HGET', K[2], receipt) or '0 0 ')
    if total + #value > left then
      if #step.given == 0 then return fail('TOOMUCH') end
      spend(total)
      return nil
    end
    total = total + #value
    step.given[#step.given + 1] = {deliveries + 1, value}
    step.ended[#step.ended + 1] = receipt
  end
  local waiting = math.min(call('LLEN', K[1]), count - #ended)
  if waiting > 0 and #ended == 0 and open >= @MAX_CLAIMS@ then return fail('TOOMANYCLAIMS') end
  waiting = math.min(waiting, @MAX_CLAIMS@ - open)
  left = left - total
  local values = {}
  spend((slice(K[1], 0, waiting - 1, values)))
  if waiting > 0 and #values == 0 and #ended == 0 then return fail('TOOMUCH') end
  for i, value in ipairs(values) do step.given[#step.given + 1] = {1, value} end
  step.taken = #values
end
function F.CLAIM(K, A, step)
  local out = {}
  for i, given in ipairs(step.given) do
    local receipt
    repeat
      issued = issued + 1
      receipt = text(micros()) .. string.format('-%04d', issued)
    until call('HEXISTS', K[2], receipt) == 0
    local packed = string.format('%d %d ', given[1], #A[1]) .. A[1] .. given[2]
    local wrote = pcall_('HSET', K[2], receipt, packed)
    if failed(wrote) then return wrote end
    call('ZADD', K[3], text(math.floor(micros() / 1000) + A[2]), receipt)
    out[3 * i - 2], out[3 * i - 1], out[3 * i] = receipt, given[2], given[1]
  end
  for _, receipt in ipairs(step.ended) do
    call('HDEL', K[2], receipt)
    call('ZREM', K[3], receipt)
  end
  if step.taken > 0 then call('LPOP', K[1], step.taken) end
  return out
end
function F.ACK(K, A)
  local found = pcall_('HDEL', K[1], A[1])
  if found == 1 then call('ZREM', K[2], A[1]) end
  return found
end
function F.EXTEND(K, A)
  local found = pcall_('HEXISTS', K[1], A[1])
  if found == 1 then
    local wrote = pcall_('ZADD', K[2], text(math.floor(micros() / 1000) + A[2]), A[1])
    if failed(wrote) then return wrote end
  end
  return found
end
"""
