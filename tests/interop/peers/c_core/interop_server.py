"""gRPC C-core as the server of gRPC's interop tests. It prints its address first."""

import itertools
import pkgutil
import time
from concurrent import futures

import grpc

# The generated modules are in a package of the same name.
grpc.__path__ = pkgutil.extend_path(grpc.__path__, grpc.__name__)

from grpc.testing import empty_pb2, messages_pb2, test_pb2_grpc  # noqa: E402

_INITIAL, _TRAILING = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


def _echo_metadata(context):
    sent = dict(context.invocation_metadata())
    if _INITIAL in sent:
        context.send_initial_metadata(((_INITIAL, sent[_INITIAL]),))
    if _TRAILING in sent:
        context.set_trailing_metadata(((_TRAILING, sent[_TRAILING]),))


def _fail_if_asked(request, context):
    if request.response_status.code:
        context.abort(_CODES[request.response_status.code], request.response_status.message)


def _payload(size):
    return messages_pb2.Payload(body=bytes(size))


class TestService(test_pb2_grpc.TestServiceServicer):
    def EmptyCall(self, _request, context):
        _echo_metadata(context)
        return empty_pb2.Empty()

    def UnaryCall(self, request, context):
        _echo_metadata(context)
        _fail_if_asked(request, context)
        return messages_pb2.SimpleResponse(payload=_payload(request.response_size))

    def StreamingInputCall(self, requests, _context):
        size = sum(len(request.payload.body) for request in requests)
        return messages_pb2.StreamingInputCallResponse(aggregated_payload_size=size)

    def StreamingOutputCall(self, request, _context):
        for wanted in request.response_parameters:
            time.sleep(wanted.interval_us / 1e6)
            yield messages_pb2.StreamingOutputCallResponse(payload=_payload(wanted.size))

    def FullDuplexCall(self, requests, context):
        _echo_metadata(context)
        for request in requests:
            _fail_if_asked(request, context)
            yield from self.StreamingOutputCall(request, context)

    def HalfDuplexCall(self, requests, context):
        asked = list(requests)
        yield from itertools.chain.from_iterable(self.StreamingOutputCall(each, context) for each in asked)


server = grpc.server(futures.ThreadPoolExecutor(32))
test_pb2_grpc.add_TestServiceServicer_to_server(TestService(), server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(f"127.0.0.1:{port}", flush=True)
server.wait_for_termination()
