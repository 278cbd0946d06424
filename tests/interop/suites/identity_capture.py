"""What is sent in mTLS is not to be read on the wire; in plaintext it is, which shows that the capture sees it."""

import re
import signal
import socket

import pytest

from support.secured import MTLS, PLAINTEXT, upstream
from support.site import SERVER, WHO_AM_I
from support.wait import until

PAIRS = [("mesh", "mesh"), ("mesh", "c-core"), ("c-core", "mesh")]
MARKER, LAST = b"what-nobody-else-may-read-4711", b"the-last-bytes-of-all"
CALLS = 100


def _request():
    """A SimpleRequest whose payload is the marker."""
    body = bytes([0x12, len(MARKER)]) + MARKER
    return WHO_AM_I + bytes([0x1A, len(body)]) + body


class Capture:
    """All that is sent to and from a port of loopback, in full length."""

    def __init__(self, programs, at):
        self.file = programs.folder / "capture.pcap"
        self.at = at
        whole = ["-s", 0, "-B", 65536, "--immediate-mode", "-U", "-Z", "root"]
        what = ["-i", "lo", *whole, "-w", self.file, f"tcp port {at.rsplit(':', 1)[1]}"]
        self.program = programs.start("tcpdump", ["tcpdump", *what])
        until(lambda: "listening on" in self._said(), 20, "tcpdump to listen")

    def read(self):
        """The bytes of what was sent before; it must have lost none."""
        host, port = self.at.rsplit(":", 1)
        with socket.create_connection((host, int(port))) as last:
            last.sendall(LAST)
            until(lambda: LAST in self.file.read_bytes(), 20, "the last bytes in the capture")
        self.program.process.send_signal(signal.SIGINT)
        assert self.program.wait(20) == 0, self._said()
        assert re.search(r"^0 packets dropped by kernel", self._said(), re.MULTILINE), self._said()
        return self.file.read_bytes()

    def _said(self):
        return self.program.errors.read_text(errors="replace")


@pytest.mark.parametrize("client,server", PAIRS)
@pytest.mark.parametrize("security", [MTLS, PLAINTEXT])
def test_bodies_are_to_be_read_in_plaintext_alone(client, server, security, programs, site):
    site.serve(server, security=security)
    capture = Capture(programs, site.at)
    tls = upstream(MTLS, SERVER) if security == MTLS else None
    done = site.call(client, tls, count=CALLS, concurrency=4, data=_request())
    assert done.codes == {"OK": CALLS}, done
    assert capture.read().count(MARKER) == (0 if security == MTLS else CALLS)
