"""Addresses, "host:port"."""

from __future__ import annotations

import ipaddress
import re

_ADDRESS = re.compile(r".+:\d+")


def is_address(text: str) -> bool:
    """Whether it has the form host:port, which no name of an env has."""
    return _ADDRESS.fullmatch(text) is not None


def host_of(address: str) -> str:
    """The host in an address; an IPv6 address without its brackets."""
    return address.rpartition(":")[0].strip("[]")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on `host`."""
    if host in ("localhost", "unix"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
