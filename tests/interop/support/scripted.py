"""An HTTP/2 server that answers as a test says, and counts what it was asked."""

import asyncio
import threading
from collections import Counter

import h2.config
import h2.connection
import h2.errors
import h2.events

GRPC = {"content-type": "application/grpc"}


def status(code, **headers):
    """A response without a body; `_` stands for `-` in the names of its headers."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda peer, stream: peer.headers(stream, code, fields, end=True)


def trailers_only(code):
    """A gRPC status without anything before it."""
    return lambda peer, stream: peer.headers(stream, 200, {**GRPC, "grpc-status": str(code)}, end=True)


def message(code=0, **headers):
    """An empty gRPC message, then the status."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}

    def answer(peer, stream):
        peer.headers(stream, 200, {**GRPC, **fields})
        peer.http.send_data(stream, bytes(5))
        peer.trailers(stream, {"grpc-status": str(code)})

    return answer


def late_status(code):
    """A gRPC status after headers of the response."""

    def answer(peer, stream):
        peer.headers(stream, 200, GRPC)
        peer.trailers(stream, {"grpc-status": str(code)})

    return answer


def reset(code, after_headers=False):
    def answer(peer, stream):
        if after_headers:
            peer.headers(stream, 200, GRPC)
        peer.http.reset_stream(stream, h2.errors.ErrorCodes[code])

    return answer


def goaway(last=None):
    """The connection's end; streams above `last` were not looked at, this one if it is not given."""

    def answer(peer, stream):
        peer.http.close_connection(last_stream_id=stream if last is None else last)
        peer.flush()
        peer.transport.close()

    return answer


def close(peer, _stream):
    peer.transport.abort()


def silence(_peer, _stream):
    pass


class Scripted:
    """Serves; a request's header `x-row` says which of the answers it gets, and `x-side` for whom it is counted.

    The last head of each side and row stays in `heads`, as a list of names and values.
    """

    def __init__(self, answers, ports=1):
        self.answers = answers
        self.taken = Counter()
        self.heads = {}
        self.loop = asyncio.new_event_loop()
        self.servers = [self.loop.run_until_complete(self._listen()) for _ in range(ports)]
        self.addresses = [f"127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in self.servers]
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def stop(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        for server in self.servers:
            server.close()

    def _listen(self):
        return self.loop.create_server(lambda: _Peer(self), "127.0.0.1", 0, backlog=1000)


class _Peer(asyncio.Protocol):
    """A connection."""

    def __init__(self, scripted):
        self.scripted = scripted
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self.rows = {}

    def connection_made(self, transport):
        self.transport = transport
        self.http.initiate_connection()
        self.flush()

    def data_received(self, data):
        for event in self.http.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                headers = dict(event.headers)
                self.rows[event.stream_id] = int(headers["x-row"])
                of = headers["x-side"], int(headers["x-row"])
                self.scripted.taken[of] += 1
                self.scripted.heads[of] = event.headers
            elif isinstance(event, h2.events.DataReceived):
                self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self.scripted.answers[self.rows[event.stream_id]](self, event.stream_id)
        self.flush()

    def headers(self, stream, code, fields, end=False):
        self.http.send_headers(stream, [(":status", str(code)), *fields.items()], end_stream=end)

    def trailers(self, stream, fields):
        self.http.send_headers(stream, list(fields.items()), end_stream=True)

    def flush(self):
        self.transport.write(self.http.data_to_send())
