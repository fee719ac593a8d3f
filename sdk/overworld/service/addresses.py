"""Addresses, "host:port"."""

from __future__ import annotations

import ipaddress


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
