"""The one Lua script: what a transaction cannot do, in one step of the server.

A transaction of Redis cannot compare, cannot look at a size before it reads, and does not take back what it did when
a later command fails. The script does: conditions; then steps, each a command or a function of `F`.

Before anything is written, every write is checked that can be (`check`): the types of its keys, and what its function
in `C` says. A write to a key that an earlier step writes cannot be checked before; for the case that it fails, the
keys that are written before it are kept as DUMP gives them, and put back by RESTORE. So all or nothing holds, and costs
nothing where it need not. Messages are sent last.

    ARGV    S (one step, its reply) or A (an Atomic: {0, replies} or {1, index, found, etag} of the unmet condition)
            number of conditions, for each: 1/0 (exists or not), = value, # etag
            for each step: name, mode, number of keys, number of arguments, arguments
    KEYS    of the conditions, then of the steps, in order

Mode: `r` reads; `w` writes and cannot fail; a type's name: writes, and its first key must have that type or not exist.

Numbers of the limits are filled in from `ops`. Only core commands of Redis 7.0 are used.
"""

import hashlib
from typing import Final

from kvmcp.backends.ops import (
    ETAG_DIGITS,
    LOG_BYTES,
    LOG_COUNT_LIFE_MS,
    LOG_LIFE_MS,
    LOG_MESSAGES,
    MAX_CLAIMS,
    MAX_COLLECTION,
    MAX_READ_BYTES,
    MAX_VALUE_BYTES,
)
from kvmcp.backends.redis.resp import pack

_BASE: Final = """\
local call, pcall_, left = redis.call, redis.pcall, @MAX_READ_BYTES@
local F, C, sends, issued = {}, {}, {}, 0
local function fail(class) return {err = class .. ' refused by kvmcp'} end
local function failed(reply) return type(reply) == 'table' and reply.err ~= nil end
local function type_of(key) return call('TYPE', key).ok end
local function other(key, wanted)
  local t = type_of(key)
  return t ~= 'none' and t ~= wanted
end
local function spend(size)
  if size > left then return false end
  left = left - size
  return true
end
local clock
local function micros()
  if not clock then
    local t = call('TIME')
    clock = t[1] * 1000000 + t[2]
  end
  return clock
end
local function text(number) return string.format('%.0f', number) end
"""

_VALUES: Final = """\
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
    if done.err:sub(1, 4) == 'ERR ' then return fail('OVERFLOW') end
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

_COLLECTIONS: Final = """\
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

_SHARING: Final = """\
function C.PUBLISH(K, A)
  if not redis.acl_check_cmd(A[1], K[3], A[2]) then return fail('NOPERM') end
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

_MAIN: Final = """\
local function value_of(key)
  local value = pcall_('GET', key)
  return type(value) == 'string' and value or nil
end
local function etag_of(value) return redis.sha1hex(value):sub(1, @ETAG_DIGITS@) end
local a, k = 3, 1
for index = 1, tonumber(ARGV[2]) do
  local want, key = ARGV[a], KEYS[k]
  a, k = a + 1, k + 1
  local met
  if want == '=' or want == '#' then
    local value = value_of(key)
    if value and want == '#' then value = etag_of(value) end
    met = value == ARGV[a]
    a = a + 1
  else
    met = call('EXISTS', key) == tonumber(want)
  end
  if not met then
    local value = value_of(key)
    return {1, index - 1, call('EXISTS', key), value and etag_of(value) or false}
  end
end
local steps = {}
while a <= #ARGV do
  local step = {name = ARGV[a], mode = ARGV[a + 1], K = {}, A = {}}
  local keys, arguments = tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
  a = a + 4
  for i = 1, keys do step.K[i] = KEYS[k]; k = k + 1 end
  for i = 1, arguments do step.A[i] = ARGV[a]; a = a + 1 end
  steps[#steps + 1] = step
end
local uses = {APPEND = {'SET', 'SETRANGE'}, POP = {'LPOP', 'RPOP'}, LTRIM = {'LTRIM', 'LLEN'},
  PUBLISH = {'HSET', 'PEXPIRE', 'XTRIM', 'XADD'}, CLAIM = {'HSET', 'ZADD', 'HDEL', 'ZREM', 'LPOP'},
  ACK = {'HDEL', 'ZREM'}, EXTEND = {'ZADD'}}
local function permitted(step)
  for _, command in ipairs(uses[step.name] or {step.name}) do
    if not redis.acl_check_cmd(command, step.K[1]) then return false end
  end
  return true
end
local function check(step)
  if step.mode ~= 'w' and other(step.K[1], step.mode) then return fail('WRONGTYPE') end
  local more = C[step.name]
  return more and more(step.K, step.A, step)
end
local function run(step)
  local own = F[step.name]
  if own then return own(step.K, step.A, step) end
  local command = {step.name}
  for _, key in ipairs(step.K) do command[#command + 1] = key end
  for _, argument in ipairs(step.A) do command[#command + 1] = argument end
  return pcall_(unpack(command))
end
local touched, late = {}, 0
for i, step in ipairs(steps) do
  if step.mode ~= 'r' then
    if #steps > 1 and #step.K > 0 and not permitted(step) then return fail('NOPERM') end
    local known = true
    for _, key in ipairs(step.K) do known = known and not touched[key] end
    local wrong = 'late'
    if known or (step.mode == 'w' and not C[step.name]) then wrong = check(step) end
    if failed(wrong) then return wrong end
    if wrong == 'late' then
      step.late = true
      late = i
    end
    for _, key in ipairs(step.K) do touched[key] = true end
  end
end
local kept, saved = {}, {}
for i = 1, late - 1 do
  for _, key in ipairs(steps[i].mode ~= 'r' and steps[i].K or {}) do
    if not saved[key] then
      local dump = call('DUMP', key)
      if dump and not redis.acl_check_cmd('RESTORE', key, 0, '', 'REPLACE', 'ABSTTL') then return fail('NOPERM') end
      saved[key] = true
      kept[#kept + 1] = {key, dump, dump and call('PEXPIRETIME', key)}
    end
  end
end
local function restore()
  for _, one in ipairs(kept) do
    call('DEL', one[1])
    if one[2] then call('RESTORE', one[1], math.max(0, one[3]), one[2], 'ABSTTL') end
  end
end
local replies, dirty = {}, false
for i, step in ipairs(steps) do
  local reply
  local wrong = step.late and check(step)
  if failed(wrong) then
    reply = wrong
  else
    local ok
    ok, reply = pcall(run, step)
    if not ok and not failed(reply) then reply = {err = 'ERR ' .. tostring(reply)} end
  end
  if failed(reply) and step.mode ~= 'r' then
    if dirty then restore() end
    return reply
  end
  dirty = dirty or step.mode ~= 'r'
  replies[i] = reply
end
for _, send in ipairs(sends) do send[1][1] = call(send[2], send[3], send[4]) end
if ARGV[1] == 'S' then return replies[1] end
return {0, replies}
"""

_LIMITS: Final = {
    "ETAG_DIGITS": ETAG_DIGITS,
    "LOG_BYTES": LOG_BYTES,
    "LOG_COUNT_LIFE_MS": LOG_COUNT_LIFE_MS,
    "LOG_LIFE_MS": LOG_LIFE_MS,
    "LOG_MESSAGES": LOG_MESSAGES,
    "MAX_CLAIMS": MAX_CLAIMS,
    "MAX_COLLECTION": MAX_COLLECTION,
    "MAX_READ_BYTES": MAX_READ_BYTES,
    "MAX_VALUE_BYTES": MAX_VALUE_BYTES,
}


def _filled_in(script: str) -> bytes:
    for name, number in _LIMITS.items():
        script = script.replace(f"@{name}@", str(number))
    return script.encode()


SCRIPT: Final = _filled_in(_BASE + _VALUES + _COLLECTIONS + _SHARING + _MAIN)
SCRIPT_SHA: Final = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest().encode()
LOAD_SCRIPT: Final = pack("SCRIPT", "LOAD", SCRIPT)
