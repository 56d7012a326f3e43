"""The wall in conftest.py lets nothing out, whichever way a library tries."""

import http.client
import socket
import threading
import urllib.request

import pytest

FAR = "192.0.2.1"  # reserved for documentation; nobody has it


def tcp():
    with socket.socket() as s:
        s.connect((FAR, 80))


def tcp_with_code():
    with socket.socket() as s:
        s.connect_ex((FAR, 80))


def udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"x", (FAR, 53))


def udp_with_flags():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"x", 0, (FAR, 53))


def ipv6():
    with socket.socket(socket.AF_INET6) as s:
        s.connect(("2001:db8::1", 80))


def name():
    socket.getaddrinfo("example.org", 80)


def web_page():
    urllib.request.urlopen("http://example.org", timeout=1)  # the wall stands before it


def web_client():
    http.client.HTTPConnection("example.org", timeout=1).request("GET", "/")


@pytest.mark.parametrize("attempt", [tcp, tcp_with_code, udp, udp_with_flags, ipv6, name, web_page, web_client])
def test_the_way_out_is_closed_and_noted(outbound_attempts, monkeypatch, attempt):
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(OSError, match="tests may not reach the network"):
        attempt()
    assert outbound_attempts
    outbound_attempts.clear()


def test_other_threads_are_seen_too(outbound_attempts):
    def quietly():
        try:
            tcp()
        except OSError:
            pass

    thread = threading.Thread(target=quietly)
    thread.start()
    thread.join()
    assert outbound_attempts == [repr((FAR, 80))]
    outbound_attempts.clear()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_this_machine_can_be_reached(host):
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection((host, server.getsockname()[1]), timeout=5).close()


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs unix sockets")
def test_unix_sockets_are_open():
    one, other = socket.socketpair()
    one.sendall(b"x")
    assert other.recv(1) == b"x"
    one.close()
    other.close()
