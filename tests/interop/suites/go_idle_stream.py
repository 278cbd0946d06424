"""A stock grpc-go server, which closes connections that ping often, keeps ours while a call waits for long."""

import os

import pytest

from support import calls, servers

SECONDS = float(os.environ["INTEROP_IDLE_SECONDS"])


@pytest.mark.timeout(SECONDS + 60)
def test_waiting_call_is_answered(programs, client):
    server = servers.go_echo(programs, env={"GRPC_GO_LOG_SEVERITY_LEVEL": "info", "GRPC_GO_LOG_VERBOSITY_LEVEL": "99"})
    target, delay = f"static:///{server.address}", {"echo-delay": f"{SECONDS}s"}
    limits = {"deadline": f"{SECONDS + 20:.0f}s", "within": SECONDS + 25}
    done = calls.call(programs, client, target, headers=delay, data=b"late", **limits)
    assert (done.code, done.reply) == ("OK", b"late")
    assert done.max_ms >= SECONDS * 1000
    log = server.errors.read_text()
    assert "too_many_pings" not in log and "ENHANCE_YOUR_CALM" not in log
