"""Which web pages may connect: the defence against cross-site WebSocket hijacking (RFC 6455 section 10.2).

Floor 1: no I/O, and nothing of the package. Origins are taken apart and compared part by part, never by a
pattern for the whole text: ``https://example.com*`` would let ``https://example.com.evil.net`` in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import AddressValueError, IPv6Address

_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

_LABELS = r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*"  # every label begins after a dot: only one way to match
_HOST = rf"(?:{_LABELS}|\[[0-9A-Fa-f:.]+\])"
_SCHEME = r"([A-Za-z][A-Za-z0-9+.-]*)://"  # RFC 3986 section 3.1
_entry = re.compile(rf"{_SCHEME}(\*\.(?=[^\[]))?({_HOST})(?::([0-9]{{1,5}}))?").fullmatch
_origin = re.compile(rf"{_SCHEME}({_LABELS}\.?|\[[0-9A-Fa-f:.]+\])(?::([0-9]{{1,5}}))?").fullmatch
_host = re.compile(rf"({_LABELS}\.?|\[[0-9A-Fa-f:.]+\])(?::([0-9]{{0,5}}))?").fullmatch

_Origin = tuple[str, str, int | None]


class OriginPolicy:
    """Decides whether a page may connect, by the Origin that its browser states.

    Pages of the host that they connect to always may. So may clients that state none: browsers do, and only
    they bring along the cookies of a person who has not asked for the connection.

    Args:
        allowed: Further origins: ``scheme://host[:port]``, where the host may begin with ``*.`` for one or
            more labels; ``null``, which is what sandboxed and local pages state; ``*`` for any.

    Raises:
        ValueError: An entry is none of these.
    """

    __slots__ = ("_any", "_exact", "_null", "_wildcards")

    def __init__(self, allowed: Sequence[str]) -> None:
        self._any, self._null = "*" in allowed, "null" in allowed
        self._exact: set[_Origin] = set()
        self._wildcards: list[_Origin] = []
        for entry in allowed:
            if entry in ("*", "null"):
                continue
            found = _entry(entry)
            origin = _parts(found[1], found[3], found[4]) if found else None
            if found is None or origin is None:
                raise ValueError(
                    f'origin {entry!r}: must be null, * or scheme://host[:port] with no path, where the host may begin with "*."'
                )
            if found[2]:
                self._wildcards.append((origin[0], "." + origin[1], origin[2]))
            else:
                self._exact.add(origin)

    def allows(self, origin: str | None, host: str) -> bool:
        """Say whether a handshake may go on.

        Args:
            origin: The Origin field; None where there is none.
            host: The Host field. Where it has no port, the default one of the origin's scheme is meant:
                the scheme that the client used is not known, as TLS may end before us.
        """
        if origin is None or self._any:
            return True
        if origin == "null":
            return self._null
        found = _origin(origin)
        parts = _parts(*found.groups()) if found else None
        if parts is None:
            return False
        return parts in self._exact or _same_host(parts, host) or any(_below(parts, entry) for entry in self._wildcards)


def _parts(scheme: str, host: str, port: str | None) -> _Origin | None:
    """Return an origin in a form that can be compared (RFC 6454 section 4); None if there is none."""
    scheme, name = scheme.lower(), _normal(host)
    number = int(port) if port else _PORTS.get(scheme)
    return None if name is None or (number or 0) > 65535 else (scheme, name, number)


def _normal(host: str) -> str | None:
    """Return a host in the one form in which it can be compared (RFC 3986 section 6.2.2.1, RFC 5952)."""
    if not host.startswith("["):
        return host.lower()
    try:
        return f"[{IPv6Address(host[1:-1])}]"
    except AddressValueError:
        return None


def _same_host(origin: _Origin, host: str) -> bool:
    """Say whether an origin is that of the Host field. Browser extensions have no host in this sense."""
    found = _host(host)
    if found is None or origin[0] not in _PORTS:
        return False
    port = int(found[2]) if found[2] else _PORTS[origin[0]]
    return (_normal(found[1]), port) == origin[1:]


def _below(origin: _Origin, wildcard: _Origin) -> bool:
    """Say whether a wildcard stands for an origin. No label is empty: what ends in ``.a.org`` is below it."""
    return origin[0] == wildcard[0] and origin[2] == wildcard[2] and origin[1].endswith(wildcard[1])
