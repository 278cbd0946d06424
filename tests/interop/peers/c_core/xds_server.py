"""gRPC C-core's server as its control plane has it (A36), at the address of its argument.

Every call is answered with a `grpc.testing.SimpleResponse` whose `username` is the caller's URI, or else DNS name, as
its certificate says it; empty if the caller showed none.
"""

import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc

# Of `username`: field 2, length-delimited.
_TAG = b"\x12"


class Names(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda _request, context: _response(_caller(context)))


def _caller(context):
    known = context.auth_context()
    names = [*known.get("peer_uri", ()), *known.get("x509_subject_alternative_name", ())]
    return names[0] if names else b""


def _response(username):
    return _TAG + bytes([len(username)]) + username if username else b""


def main():
    server = grpc.server(ThreadPoolExecutor(4), handlers=[Names()], xds=True)
    # The fallback where the control plane asks for no TLS.
    server.add_secure_port(sys.argv[1], grpc.xds_server_credentials(grpc.insecure_server_credentials()))
    server.start()
    print(sys.argv[1], flush=True)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    ended.wait()
    server.stop(1).wait()


main()
