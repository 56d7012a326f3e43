"""Who may reach the page."""

from __future__ import annotations

import pytest

from app.web.settings import WebSettings, is_loopback, read_logins
from genmm.core.errors import UsageError


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]"])
def test_loopback_needs_no_login(host):
    assert is_loopback(host)
    assert WebSettings(host=host).guards_host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])  # noqa: S104
def test_another_address_is_refused_without_login(host):
    with pytest.raises(UsageError, match="--auth.*--insecure"):
        WebSettings(host=host)
    assert not WebSettings(host=host, insecure=True).guards_host
    assert not WebSettings(host=host, auth=(("ann", "secret"),)).guards_host


@pytest.mark.parametrize(
    "wrong", [{"port": -1}, {"port": 65536}, {"queue_max": 0}, {"keep_s": 5}, {"quota_bytes": 10}, {"models_loaded": 0}]
)
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        WebSettings(**wrong)


def test_logins_are_read_in_every_form():
    pairs = (("ann", "a:b"), ("bob", "c"))
    assert read_logins(None) == ()
    assert read_logins("ann:a:b") == pairs[:1]
    assert read_logins(("ann", "a:b")) == pairs[:1]
    assert read_logins(["ann:a:b", ("bob", "c")]) == pairs


@pytest.mark.parametrize("wrong", ["ann", "ann:", ":secret", [("", "x")]])
def test_half_a_login_is_refused(wrong):
    with pytest.raises(UsageError, match="NAME:PASSWORD"):
        read_logins(wrong)
