"""What the web page is told when it starts: where to listen, who may enter, how much it keeps."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from genmm.core.errors import UsageError
from genmm.core.limits import DEFAULT_LIMITS, Limits

__all__ = ["Login", "WebSettings", "is_loopback", "read_logins"]

Login = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class WebSettings:
    """Settings of one server; everything has a safe default."""

    host: str = "127.0.0.1"
    """Address to listen on; another one than loopback needs `auth` or `insecure`."""
    port: int = 7860
    """Port in [0, 65535]; 0 lets the system choose a free one."""
    auth: tuple[Login, ...] = ()
    """(name, password) pairs that may log in; empty: no login."""
    insecure: bool = False
    """Listen on a public address without a login, and accept any host name."""
    model: str | None = None
    """Name or folder of the model that the page starts with; None takes the first that suits a tab."""
    device: str = "auto"
    """Where models run: auto, cpu, cuda, cuda:N, mps."""
    dtype: str = "auto"
    """Number format of the models: auto, float32, bfloat16, float16."""
    queue_max: int = 32
    """Jobs that may wait, at least 1; further ones are refused with a message."""
    models_loaded: int = 2
    """Models kept in memory, at least 1; the one used longest ago goes first."""
    keep_s: int = 6 * 3600
    """Seconds that results and uploads are kept on disk, at least 60."""
    quota_bytes: int = 4_000_000_000
    """Disk space for results and uploads; beyond it the oldest go first. At least 1 MB."""
    limits: Limits = DEFAULT_LIMITS
    """Bounds on uploads and text."""

    def __post_init__(self) -> None:
        _at_least("port", self.port, 0)
        if self.port > 65535:
            raise UsageError(f"port must be at most 65535, got {self.port}")
        _at_least("queue_max", self.queue_max, 1)
        _at_least("models_loaded", self.models_loaded, 1)
        _at_least("keep_s", self.keep_s, 60)
        _at_least("quota_bytes", self.quota_bytes, 1_000_000)
        if not self.insecure and not self.auth and not is_loopback(self.host):
            raise UsageError(
                f"{self.host} can be reached from other machines, and anybody there could use this page; "
                "give it a login with --auth NAME:PASSWORD, or say --insecure when the network is trusted"
            )

    @property
    def guards_host(self) -> bool:
        """Whether requests must name a loopback host, which keeps a foreign web site from reaching a local page."""
        return is_loopback(self.host) and not self.auth and not self.insecure


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UsageError(f"{name} must be at least {least}, got {value}")


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_logins(auth: str | Login | Sequence[str | Login] | None) -> tuple[Login, ...]:
    """Turn "name:password", (name, password), or several of them into (name, password) pairs.

    Raises: UsageError when a name or password is missing.
    """
    if not auth:
        return ()
    several = list(auth) if not isinstance(auth, str) and not _is_pair(auth) else [auth]
    return tuple(_read_login(entry) for entry in several)


def _is_pair(auth: object) -> bool:
    return isinstance(auth, tuple) and len(auth) == 2 and all(isinstance(part, str) for part in auth)


def _read_login(entry: object) -> Login:
    name, password = entry if _is_pair(entry) else str(entry).partition(":")[::2]  # type: ignore[misc]
    if not name or not password:
        raise UsageError("a login is NAME:PASSWORD, both not empty")
    return name, password
