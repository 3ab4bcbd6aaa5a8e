"""Values, in Lua: functions of the script (see there) for one or several keys."""

from typing import Final

VALUES: Final = """\
function F.GET(K)
  local size = pcall_('STRLEN', K[1])
  if failed(size) then return size end
  if not spend(size) then return fail('TOOMUCH') end
  return call('GET', K[1])
end
function F.GETMANY(K)
  local total, out = 0, {}
  for _, key in ipairs(K) do
    local size = pcall_('STRLEN', key)
    if not failed(size) then total = total + size end
  end
  if not spend(total) then return fail('TOOMUCH') end
  for i, key in ipairs(K) do out[i] = pcall_('GET', key) end
  return out
end
function C.GETDEL(K)
  if not spend(call('STRLEN', K[1])) then return fail('TOOMUCH') end
end
local function characters(value)
  if #value < 2 or value:sub(1, 1) ~= '"' or value:sub(-1) ~= '"' then return nil end
  local inner = value:sub(2, -2)
  if inner:find('\\\\', 1, true) then
    inner = inner:gsub('\\\\\\\\', 'x')
    inner = inner:gsub('\\\\u[dD][89abAB]%x%x\\\\u[dD][c-fC-F]%x%x', 'x'):gsub('\\\\u%x%x%x%x', 'x'):gsub('\\\\.', 'x')
    if inner:find('\\\\', 1, true) then return nil end
  end
  if inner:find('"', 1, true) then return nil end
  if not inner:find('[\\128-\\255]') then return #inner end
  local _, inside = inner:gsub('[\\128-\\191]', '')
  return #inner - inside
end
function C.APPEND(K, A, step)
  step.old = call('GET', K[1]) or false
  step.count = characters(step.old or '""')
  if not step.count then return fail('NOTTEXT') end
  if step.old and #step.old + #A[1] - 2 > @MAX_VALUE_BYTES@ then return fail('TOOLONG') end
end
function F.APPEND(K, A, step)
  local done
  if step.old then
    done = pcall_('SETRANGE', K[1], #step.old - 1, A[1]:sub(2))
  else
    done = pcall_('SET', K[1], A[1])
  end
  if failed(done) then return done end
  return step.count + characters(A[1])
end
function C.INCRBY(K, A)
  local value = call('GET', K[1])
  if not value then return nil end
  local sign, digits = value:match('^(-?)([1-9]%d*)$')
  if value == '0' then sign, digits = '', '0' end
  if not digits or #digits > 19 then return fail('NOTINT') end
  local most = sign == '' and '9223372036854775807' or '9223372036854775808'
  if #digits == 19 and digits > most then return fail('NOTINT') end
  local sum = math.abs(tonumber(value) + tonumber(A[1]))
  if sum > 9.3e18 then return fail('OVERFLOW') end
  if sum > 9.2e18 then return 'late' end
end
function F.INCRBY(K, A)
  local done = pcall_('INCRBY', K[1], A[1])
  if failed(done) then
    if tostring(done.err):find('overflow', 1, true) then return fail('OVERFLOW') end
    return done
  end
  return call('GET', K[1])
end
function F.DEL(K)
  if #K == 0 then return 0 end
  return pcall_('DEL', unpack(K))
end
function F.EXISTS(K)
  local out = {}
  for i, key in ipairs(K) do out[i] = call('EXISTS', key) end
  return out
end
function F.RENAME(K, A)
  if call('EXISTS', K[1]) == 0 then return 2 end
  if A[1] == '1' and call('EXISTS', K[2]) == 1 then return 0 end
  local done = pcall_('RENAME', K[1], K[2])
  if failed(done) then return done end
  return 1
end
function F.SIZE(K)
  local command = ({string = 'STRLEN', list = 'LLEN', hash = 'HLEN', set = 'SCARD', zset = 'ZCARD', stream = 'XLEN',
    none = 'none'})[type_of(K[1])]
  if command == 'none' then return false end
  return command and call(command, K[1]) or 0
end
"""
