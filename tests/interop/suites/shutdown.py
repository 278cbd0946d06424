"""A server is told to end (SIGTERM) again and again while calls, streams and clients that say nothing are there: no call
fails, and it ends in time."""

import contextlib
import os
import socket
import threading
import time

import grpc
import pytest

from support import calls, servers
from support.places import ours
from support.wait import until

ROUNDS = 50 if os.environ["INTEROP_LONG"] else 8
RATE = 500
METHOD = "/helloworld.Greeter/SayHello"
# What the server lets calls take to end, and what it may take beyond that.
GRACE_SECONDS = 30
SLACK_SECONDS = 0.1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


def greeter(programs, at):
    return programs.serve("greeter-server", [ours("greeter-server"), "--listen", at])


def silent(at, *words):
    """A client that says this, and nothing more."""
    host, port = at.rsplit(":", 1)
    stream = socket.create_connection((host, int(port)), timeout=10)
    for word in words:
        stream.sendall(word)
    return stream


@contextlib.contextmanager
def watched(at):
    """A stream that a client leaves open: of the server's health."""
    channel = grpc.insecure_channel(at, options=[("grpc.use_local_subchannel_pool", 1)])
    watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
    said = []

    def read():
        with contextlib.suppress(grpc.RpcError):
            said.extend(watch)

    reader = threading.Thread(target=read)
    reader.start()
    until(lambda: said, 10, "what the server says of its health")
    yield said
    watch.cancel()
    reader.join()
    channel.close()


@pytest.mark.timeout(ROUNDS * 6 + 120)
def test_server_that_is_told_to_end_fails_no_call_and_ends_in_time(programs, client):
    places = [servers.free_address() for _ in range(2)]
    running = [greeter(programs, at) for at in places]
    # Until it is told to stop.
    options = {"count": RATE * ROUNDS * 60, "rate": RATE, "deadline": "10s"}
    load = calls.start(programs, client, f"static:///{','.join(places)}", METHOD, **options)
    took = []
    for round in range(ROUNDS):
        # The client has both again: it tries what refused it after a second or two.
        time.sleep(2.2)
        place = round % 2
        at = places[place]
        with contextlib.ExitStack() as clients, watched(at) as said:
            hostile = round == ROUNDS - 1
            # A client that began HTTP/2 and answers nothing may take all the time that calls have.
            for words in ([], [PREFACE[:10]], *([[PREFACE]] if hostile else [])):
                clients.enter_context(contextlib.closing(silent(at, *words)))
            begin = time.monotonic()
            running[place].terminate()
            assert running[place].wait(GRACE_SECONDS + SLACK_SECONDS) == 0
            took.append(time.monotonic() - begin)
            # NOT_SERVING, before the stream's end.
            assert said[-1] == b"\x08\x02", said
        running[place] = greeter(programs, at)
    assert load.running(), load.tail()
    load.interrupt()
    done = calls.summary(load)
    print(f"ends took {min(took):.3f} to {max(took):.3f} s; the slowest call took {done.max_ms} ms")
    assert max(took[:-1]) < 5, took
    assert max(took) <= GRACE_SECONDS + SLACK_SECONDS
    assert done.codes == {"OK": done.calls}
    assert set(done.endpoints) == set(places)
