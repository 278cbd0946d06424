"""gRPC C-core's server as its control plane has it (A36), at the address of its argument: every call is answered empty."""

import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc


class Empty(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"")


def main():
    server = grpc.server(ThreadPoolExecutor(4), handlers=[Empty()], xds=True)
    # The fallback where the control plane asks for no TLS.
    server.add_secure_port(sys.argv[1], grpc.xds_server_credentials(grpc.insecure_server_credentials()))
    server.start()
    print(sys.argv[1], flush=True)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    ended.wait()
    server.stop(1).wait()


main()
