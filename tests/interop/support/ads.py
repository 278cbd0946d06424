"""An ADS server on messages that an encoder other than ours made (PyPI `xds-protos`), whose behaviour a test decides.

State of the world only, and strict: it answers a request that asks for something new, waits for ACK or NACK, ignores
stale nonces, sends LDS and CDS whole, and says nothing about names of RDS and EDS that it does not have.
"""

import importlib
import queue
import threading
from concurrent import futures
from dataclasses import dataclass

import grpc
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.protobuf import any_pb2, json_format

from support import xds
from support.wait import until

# Imported for their side effect: types that are named only inside an Any must be known before they can be encoded.
for _module in (
    "envoy.config.cluster.v3.cluster_pb2",
    "envoy.config.endpoint.v3.endpoint_pb2",
    "envoy.config.listener.v3.listener_pb2",
    "envoy.config.route.v3.route_pb2",
    "envoy.extensions.clusters.aggregate.v3.cluster_pb2",
    "envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2",
    "envoy.extensions.filters.http.fault.v3.fault_pb2",
    "envoy.extensions.filters.http.jwt_authn.v3.config_pb2",
    "envoy.extensions.filters.http.rbac.v3.rbac_pb2",
    "envoy.extensions.filters.http.router.v3.router_pb2",
    "envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2",
    "envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3.client_side_weighted_round_robin_pb2",
    "envoy.extensions.load_balancing_policies.least_request.v3.least_request_pb2",
    "envoy.extensions.load_balancing_policies.maglev.v3.maglev_pb2",
    "envoy.extensions.load_balancing_policies.pick_first.v3.pick_first_pb2",
    "envoy.extensions.load_balancing_policies.random.v3.random_pb2",
    "envoy.extensions.load_balancing_policies.ring_hash.v3.ring_hash_pb2",
    "envoy.extensions.load_balancing_policies.round_robin.v3.round_robin_pb2",
    "envoy.extensions.load_balancing_policies.wrr_locality.v3.wrr_locality_pb2",
    "envoy.extensions.transport_sockets.tls.v3.tls_pb2",
    "envoy.extensions.upstreams.http.v3.http_protocol_options_pb2",
    "xds.type.v3.typed_struct_pb2",
):
    importlib.import_module(_module)

_WHOLE = (xds.LISTENER, xds.CLUSTER)


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    stream: int
    type: str
    names: tuple
    version: str
    nonce: str
    error: str


def encode(resource):
    """The resource as an Any."""
    return json_format.ParseDict(resource, any_pb2.Any())


class AdsServer(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    """Serves the resources it has been given, to every client alike."""

    def __init__(self, *resources):
        self.lock = threading.Lock()
        self.resources = {}
        self.versions = {}
        self.streams = []
        self.opened = 0
        self.requests = []
        self.silent = set()
        self.server = None
        self.address = "127.0.0.1:0"
        self.put(*resources)

    def start(self):
        """Serves; after a stop, at the same address as before."""
        options = [("grpc.so_reuseport", 0)]
        self.server = grpc.server(futures.ThreadPoolExecutor(16), options=options)
        ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(self, self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port(self.address)}"
        self.server.start()
        return self

    def stop(self):
        self.server.stop(grace=None).wait(5)

    def put(self, *resources):
        """Adds or replaces resources, and sends them to who asked for them."""
        for resource in resources:
            self.put_any(resource["@type"], xds.name_of(resource), encode(resource))

    def put_any(self, kind, name, packed):
        """The same for what is already packed, whatever is in it."""
        with self.lock:
            self.resources.setdefault(kind, {})[name] = packed
            self._tell(kind)

    def remove(self, kind, name):
        with self.lock:
            del self.resources[kind][name]
            self._tell(kind)

    def close_streams(self, code=grpc.StatusCode.UNAVAILABLE):
        with self.lock:
            for stream in self.streams:
                stream.queue.put(("close", code))

    def nacks(self, kind=None):
        return [seen for seen in list(self.requests) if seen.error and kind in (None, seen.type)]

    def nack(self, kind, within=10):
        """The text of the first NACK of this type."""
        return until(lambda: self.nacks(kind), within, f"a NACK of {kind}")[0].error

    def wait_acked(self, kind, within=10):
        """Until a client took the present version of this type."""
        version = self.versions[kind]
        acked = lambda: any(s.type == kind and s.version == version and not s.error for s in list(self.requests))
        until(acked, within, f"an ACK of {kind} version {version}")

    def _tell(self, kind):
        self.versions[kind] = str(int(self.versions.get(kind, "0")) + 1)
        for stream in self.streams:
            stream.queue.put(("push", kind))

    def StreamAggregatedResources(self, requests, context):
        stream = _Stream(self)
        with self.lock:
            self.opened += 1
            stream.number = self.opened
            self.streams.append(stream)
        context.add_callback(lambda: stream.queue.put(("end", None)))
        threading.Thread(target=stream.read, args=(requests,), daemon=True).start()
        try:
            yield from stream.answers(context)
        finally:
            with self.lock:
                self.streams.remove(stream)


class _Stream:
    def __init__(self, server):
        self.server = server
        self.number = 0
        self.queue = queue.SimpleQueue()
        self.names = {}
        self.nonces = {}
        self.sent = 0

    def read(self, requests):
        try:
            for request in requests:
                self.queue.put(("request", request))
        except grpc.RpcError:
            pass
        self.queue.put(("end", None))

    def answers(self, context):
        while True:
            event, what = self.queue.get()
            if event == "end":
                return
            if event == "close":
                context.abort(what, "closed by the test")
            kind = self._take(what) if event == "request" else what
            if kind in self.names and kind not in self.server.silent:
                if answer := self._answer(kind):
                    yield answer

    def _take(self, request):
        """Notes a request; its type if it asks for something new."""
        kind, names = request.type_url, tuple(request.resource_names)
        self.server.requests.append(
            Seen(self.number, kind, names, request.version_info, request.response_nonce, request.error_detail.message)
        )
        if request.response_nonce != self.nonces.get(kind, ""):
            return None
        new = self.names.get(kind) != names
        self.names[kind] = names
        return kind if new else None

    def _answer(self, kind):
        with self.server.lock:
            have = self.server.resources.get(kind, {})
            names = self.names[kind] or (have if kind in _WHOLE else ())
            found = [have[name] for name in names if name in have]
            version = self.server.versions.get(kind, "0")
        if not found and kind not in _WHOLE:
            return None
        self.sent += 1
        self.nonces[kind] = f"{self.number}.{self.sent}"
        return discovery_pb2.DiscoveryResponse(
            version_info=version, type_url=kind, nonce=self.nonces[kind], resources=found
        )
