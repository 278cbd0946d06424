"""An HTTP/2 client that says what comes of many calls on one connection, as fast as Python can."""

import socket

import h2.config
import h2.connection
import h2.events

# Of what are open at once; servers allow a hundred.
_AT_ONCE = 50
_CONFIG = h2.config.H2Configuration(header_encoding="utf-8", validate_inbound_headers=False)
_FIXED = [(":method", "POST"), (":scheme", "http"), ("content-type", "application/grpc"), ("te", "trailers")]
_EMPTY = bytes(5)


class Connection:
    """A connection from an address of loopback, secured by a context of `ssl` if there is one."""

    def __init__(self, at, context=None, source="127.0.0.1", server_name=None):
        host, port = at.rsplit(":", 1)
        plain = socket.create_connection((host, int(port)), timeout=30, source_address=(source, 0))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream = context.wrap_socket(plain, server_hostname=server_name) if context else plain
        self.http = h2.connection.H2Connection(_CONFIG)
        self.http.initiate_connection()

    def statuses(self, calls):
        """The `grpc-status` of each call, which is a path, an authority and a list of headers."""
        return [dict(reversed(headers)).get("grpc-status") for headers in self.headers(calls)]

    def headers(self, calls):
        """The headers of each response, with its trailers behind them."""
        found = []
        for begin in range(0, len(calls), _AT_ONCE):
            found += self._together(calls[begin : begin + _AT_ONCE])
        return found

    def close(self):
        self.stream.close()

    def _together(self, calls):
        opened = [self._send(*call) for call in calls]
        headers, left = {stream: [] for stream in opened}, set(opened)
        while left:
            self.stream.sendall(self.http.data_to_send())
            data = self.stream.recv(1 << 16)
            if not data:
                raise ConnectionError("closed by the server")
            for event in self.http.receive_data(data):
                if isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
                    headers[event.stream_id] += event.headers
                elif isinstance(event, h2.events.DataReceived):
                    self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
                    left.discard(event.stream_id)
                elif isinstance(event, h2.events.ConnectionTerminated):
                    raise ConnectionError(f"GOAWAY: {event.error_code}")
        self.stream.sendall(self.http.data_to_send())
        return [headers[stream] for stream in opened]

    def _send(self, path, authority, headers):
        stream = self.http.get_next_available_stream_id()
        self.http.send_headers(stream, [(":path", path), (":authority", authority), *_FIXED, *headers])
        self.http.send_data(stream, _EMPTY, end_stream=True)
        return stream
