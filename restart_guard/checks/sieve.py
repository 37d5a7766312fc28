"""A sieve on the server: of a batch of keys only those come back that may be bad, with the facts to judge them by.

A Lua script looks at each key on the server, so that a million good keys cost no traffic. ``rules.judge`` still decides
which keys are bad. If a server or an ACL refuses scripts, the caller asks for every key instead.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import redis

from restart_guard.checks.rules import Bounds
from restart_guard.redis_server.client import error_word

# A batch of 1000 blocks the server for 1 to 2 ms. A key that the size command refuses has another type, and a size of 0
# may mean a missing key: both come back with all their facts, and only for these the TTL is read needlessly.
_SCRIPT = """
local want, least, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local low, high = tonumber(ARGV[4]), tonumber(ARGV[5])
local cursor, keys = '0', KEYS
if ARGV[6] then
  local page = redis.call('SCAN', ARGV[6], 'MATCH', ARGV[7], 'COUNT', ARGV[8])
  cursor, keys = page[1], page[2]
end
local sizes = {string='STRLEN', hash='HLEN', list='LLEN', set='SCARD', zset='ZCARD', stream='XLEN'}
local command, bounded = sizes[want], low > -1 or high > -1
local call, pcall = redis.call, redis.pcall
local found = {cursor, #keys, -1, 0}
for index = 1, #keys do
  local key, size = keys[index], nil
  if command then size = pcall(command, key) end
  local good = type(size) == 'number' and size > 0 and size >= least and (most < 0 or size <= most)
  local left = -1
  if good and bounded then
    left = call('PTTL', key)
    good = left >= low and left >= 0 and (high < 0 or left <= high)
  end
  if not good then
    local kind = call('TYPE', key).ok
    local measure = sizes[kind]
    size = measure and call(measure, key) or -1
    left = call('PTTL', key)
    local fine = want == '' and size > 0 and size >= least and (most < 0 or size <= most)
    if fine and bounded then fine = left >= low and left >= 0 and (high < 0 or left <= high) end
    if not fine then
      local at = #found
      found[at + 1], found[at + 2], found[at + 3], found[at + 4] = key, kind, left, size
    else
      good = true
    end
  end
  if good then
    if left >= 0 and (found[3] < 0 or left < found[3]) then found[3] = left end
    found[4] = found[4] + (size or 0)
  end
end
return found
"""
_REFUSED = ("NOPERM", "ERR", "NOSCRIPT")


class Suspect(NamedTuple):
    key: bytes
    kind: str
    pttl: int
    size: int | None


class Sifted(NamedTuple):
    """``cursor`` is for the next page of a pattern, 0 at the end; ``keys`` is the number of keys that were
    looked at. Of the keys that are no suspects: the least PTTL, -1 if none was looked at, and the sum of the sizes."""

    cursor: int
    keys: int
    suspects: list[Suspect]
    least_pttl: int = -1
    size: int = 0


class Sieve:
    """``works`` is False once the server has refused the script."""

    def __init__(self, client: redis.Redis, bounds: Bounds) -> None:
        self._client: Any = client
        self._arguments = [
            bounds.kind or "",
            bounds.least,
            -1 if bounds.most is None else bounds.most,
            -1 if bounds.low_ms is None else bounds.low_ms,
            -1 if bounds.high_ms is None else bounds.high_ms,
        ]
        self.works = True

    def keys(self, keys: Sequence[bytes]) -> Sifted | None:
        """Look at these keys. None if the script is refused."""
        return self._run(len(keys), *keys, *self._arguments)

    def page(self, pattern: str, cursor: int, count: int) -> Sifted | None:
        """The next page of the keys that match a pattern; None if the script is refused."""
        return self._run(0, *self._arguments, cursor, pattern.encode("utf-8", "surrogateescape"), count)

    def _run(self, count: int, *arguments: Any) -> Sifted | None:
        if not self.works:
            return None
        try:
            cursor, looked_at, least_pttl, total, *flat = self._client.execute_command(
                "EVAL", _SCRIPT, count, *arguments
            )
        except redis.ResponseError as error:
            if error_word(error) not in _REFUSED:
                raise
            self.works = False
            return None
        facts = zip(flat[0::4], flat[1::4], flat[2::4], flat[3::4], strict=True)
        suspects = [Suspect(key, kind.decode(), pttl, size if size >= 0 else None) for key, kind, pttl, size in facts]
        return Sifted(int(cursor), int(looked_at), suspects, int(least_pttl), int(total))
