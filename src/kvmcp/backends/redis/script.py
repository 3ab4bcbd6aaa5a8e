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
    MAX_TTL_SECONDS,
    MAX_VALUE_BYTES,
)
from kvmcp.backends.redis.resp import pack
from kvmcp.backends.redis.script_collections import COLLECTIONS
from kvmcp.backends.redis.script_sharing import SHARING
from kvmcp.backends.redis.script_values import VALUES

_BASE: Final = """\
local call, pcall_, left = redis.call, redis.pcall, @MAX_READ_BYTES@
local F, C, sends, issued = {}, {}, {}, 0
local may = redis.acl_check_cmd or function() return true end -- Redis 7.0 has it; what only plays Redis may not
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
  ACK = {'HDEL', 'ZREM'}, EXTEND = {'ZADD'}, HEXPIREBY = {'HGET', 'PEXPIRE'}}
local function permitted(step)
  for _, command in ipairs(uses[step.name] or {step.name}) do
    if not may(command, step.K[1]) then return false end
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
    local hopeless = failed(wrong)
    if hopeless and late == 0 then return wrong end
    if hopeless or wrong == 'late' then
      step.late = true
      late = i
    end
    if hopeless then break end -- a step before may fail first, and then its reason counts
    for _, key in ipairs(step.K) do touched[key] = true end
  end
end
local kept, saved = {}, {}
for i = 1, late - 1 do
  for _, key in ipairs(steps[i].mode ~= 'r' and steps[i].K or {}) do
    if not saved[key] then
      local dump = call('DUMP', key)
      if dump and not may('RESTORE', key, 0, '', 'REPLACE', 'ABSTTL') then return fail('NOPERM') end
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
    "MAX_TTL_SECONDS": MAX_TTL_SECONDS,
    "MAX_VALUE_BYTES": MAX_VALUE_BYTES,
}


def _filled_in(script: str) -> bytes:
    for name, number in _LIMITS.items():
        script = script.replace(f"@{name}@", str(number))
    return script.encode()


SCRIPT: Final = _filled_in(_BASE + VALUES + COLLECTIONS + SHARING + _MAIN)
SCRIPT_SHA: Final = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest().encode()
LOAD_SCRIPT: Final = pack("SCRIPT", "LOAD", SCRIPT)
