"""Every endpoint is replaced every 2 s, drained with GOAWAY, while calls run: none fails."""

import os
import time

import pytest

from support import calls, servers
from support.places import ours
from support.xds import bootstrap, endpoints, service

SECONDS = int(os.environ["INTEROP_ROLLING_SECONDS"])
RATE = 500
ENDPOINTS = 4
LIFE_SECONDS = 2


def _our_interop_server(programs):
    return programs.serve("interop-server", [ours("interop-server"), "--listen", "127.0.0.1:0"])


@pytest.fixture(params=[(servers.go_echo, calls.METHOD), (_our_interop_server, "/grpc.testing.TestService/EmptyCall")],
                ids=["grpc-go", "mesh"])
def kind(request):
    """How an endpoint is started, and a method that it serves."""
    return request.param


@pytest.mark.timeout(2 * SECONDS + 60)
def test_rolling_replacement_fails_no_call(programs, folder, tmp_path, client, kind):
    start, method = kind
    live = [start(programs) for _ in range(ENDPOINTS)]
    used = [server.address for server in live]
    folder.put(*service("greeter", *used))
    config = bootstrap(tmp_path, servers.control_plane(programs, folder).address)
    options = {"count": RATE * SECONDS, "rate": RATE, "deadline": "10s", "headers": {"echo-delay": "20ms"}}
    running = calls.start(programs, client, "xds:///greeter", method, bootstrap=config, **options)
    tick = time.monotonic()
    while running.running():
        live.append(start(programs))
        used.append(live[-1].address)
        leaving = live.pop(0)
        folder.put(endpoints("greeter", *(server.address for server in live)))
        # At once: the client learns of it from GOAWAY before it learns of it from the control plane.
        leaving.terminate()
        tick += LIFE_SECONDS / ENDPOINTS
        time.sleep(max(0, tick - time.monotonic()))
    done = calls.summary(running)
    print(f"{len(used)} endpoints, {len(done.endpoints)} of them used; the slowest call took {done.max_ms} ms")
    assert done.codes == {"OK": RATE * SECONDS}
