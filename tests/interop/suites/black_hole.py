"""An endpoint that swallows packets, without a word: SYNs from the start, or those of a running connection."""

import subprocess

import pytest

from support import calls, servers
from support.wait import until

HOLE = "127.0.0.4"
RATE = 60
# Silence within a second of a request, a second for the answer to a PING, and what a loaded machine needs.
LEFT_WITHIN = 4
DETECTED_WITHIN = 30
USED_AGAIN_WITHIN = 30


@pytest.fixture
def backends(programs):
    """Three servers, the last of them where the hole will be."""
    return [servers.go_echo(programs, host=host).address for host in ("127.0.0.2", "127.0.0.3", HOLE)]


@pytest.fixture
def nft():
    """Runs nft. The suite has a network namespace of its own, so the rules touch nothing else."""

    def run(*commands):
        subprocess.run(["nft", "; ".join(commands)], check=True, timeout=10)

    yield run
    run("flush ruleset")


def _drop(nft):
    nft(
        "add table ip hole",
        "add chain ip hole in { type filter hook input priority 0; }",
        f"add rule ip hole in ip daddr {HOLE} drop",
        f"add rule ip hole in ip saddr {HOLE} drop",
    )


def _target(backends):
    return "static:///" + ",".join(backends)


def test_endpoint_that_answers_no_syn_delays_no_call(programs, backends, nft, client):
    _drop(nft)
    done = calls.call(programs, client, _target(backends), count=600, rate=100, deadline="5s")
    assert done.codes == {"OK": 600}
    assert set(done.endpoints) == set(backends[:2])
    assert done.max_ms < 1000


@pytest.mark.timeout(200)
def test_endpoint_that_goes_silent_is_left_and_used_again(programs, backends, nft, client):
    seconds = 5 + DETECTED_WITHIN + 10 + USED_AGAIN_WITHIN
    options = {"count": RATE * seconds, "rate": RATE, "deadline": "60s", "each": True}
    running = calls.start(programs, client, _target(backends), **options)
    now = lambda: max((line.get("t_ms", 0) for line in running.json_lines()[-50:]), default=0)
    until(lambda: now() > 5000, 20, "5 s of calls")
    _drop(nft)
    dropped = now()
    until(lambda: now() > dropped + (DETECTED_WITHIN + 10) * 1000, 60, "calls while the endpoint is silent")
    # Read before the hole is mended: until the lines are read, the endpoint may be in use again.
    silent_until = now()
    nft("flush ruleset")
    back = now()

    done = calls.summary(running, within=120)
    begun = lambda each: each["t_ms"] - each["ms"]
    failed = [each for each in done.each if each["code"] != "OK"]
    assert failed, "no call was on its way to the endpoint when it went silent"
    # Who was on its way there fails, when that is noticed; nobody else does.
    detected = min(each["t_ms"] for each in failed)
    print(f"detected after {detected - dropped:.0f} ms; {len(failed)} of {done.calls} calls were on their way")
    assert detected - dropped < DETECTED_WITHIN * 1000
    assert all(begun(each) < dropped + LEFT_WITHIN * 1000 for each in failed)
    assert all(each["endpoint"] in (backends[2], None) for each in failed)
    meanwhile = [each for each in done.each if dropped + LEFT_WITHIN * 1000 < begun(each) < silent_until]
    # Not always both: of two, the one that had a slow call just before is left alone for a while.
    assert {each["endpoint"] for each in meanwhile} <= set(backends[:2])
    again = [begun(each) for each in done.each if begun(each) > silent_until and each["endpoint"] == backends[2]]
    assert again, "never used again"
    print(f"used again after {min(again) - back:.0f} ms")
    assert min(again) - back < USED_AGAIN_WITHIN * 1000
