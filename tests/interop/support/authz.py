"""An authorization service (`envoy.service.auth.v3.Authorization`) whose answers are made before."""

import threading
from concurrent import futures

import grpc
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc
from google.protobuf import json_format

# The number of the answer that a call is to have.
CASE = "x-case"


class Authorization(external_auth_pb2_grpc.AuthorizationServicer):
    """Answers each check with the one of these that it asks for: a `CheckResponse`, or a code of gRPC to fail with."""

    def __init__(self, answers):
        self.answers = answers
        self.lock = threading.Lock()
        # What it was told of each call, by case.
        self.told = {}
        self.server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        external_auth_pb2_grpc.add_AuthorizationServicer_to_server(self, self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def Check(self, request, context):
        http = request.attributes.request.http
        headers = [(each.key, each.value or each.raw_value.decode()) for each in http.header_map.headers]
        headers += sorted(http.headers.items())
        case = int(dict(headers)[CASE])
        with self.lock:
            self.told[case] = {"method": http.method, "path": http.path, "host": http.host, "headers": headers}
        answer = self.answers[case]
        if isinstance(answer, grpc.StatusCode):
            context.abort(answer, "as it was made")
        return json_format.ParseDict(answer, external_auth_pb2.CheckResponse())

    def take_told(self):
        """What it was told since last asked."""
        with self.lock:
            told, self.told = self.told, {}
        return told

    def stop(self):
        self.server.stop(None)
