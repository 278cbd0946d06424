"""A server and its callers with certificates of one authority, behind one control plane, whoever they are made of."""

from support import calls, servers
from support.ads import AdsServer
from support.certificates import Authority
from support.secured import PLAINTEXT, security_of, server_listener
from support.wait import until
from support.xds import bootstrap, service

CLIENT, SERVER = "spiffe://mesh.test/ns/site/sa/client", "spiffe://mesh.test/ns/site/sa/server"
# Also a name of the server.
NAME = "server.test"
METHOD = "/grpc.testing.TestService/UnaryCall"
# A SimpleRequest with `fill_username`, and the tag of `username` in its response.
WHO_AM_I, _USERNAME = b"\x20\x01", 0x12

_CLIENTS = {"mesh": calls.mesh, "c-core": calls.c_core_secured, "grpc-go": calls.grpc_go}


def username(reply):
    """The `username` of a SimpleResponse, whose fields are all length-delimited and short here."""
    while reply:
        tag, size = reply[0], reply[1]
        if tag == _USERNAME:
            return reply[2 : 2 + size].decode()
        reply = reply[2 + size :]
    return ""


class Site:
    def __init__(self, programs, folder):
        self.programs = programs
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.authority = Authority(folder)
        self.client = self.authority.workload("client", CLIENT)
        self.server = self.authority.workload("server", SERVER, NAME)
        # A SPIFFE bundle map, in the place of the authority as roots of all.
        self.bundles = None
        self.control = AdsServer().start()
        self.at = None

    def serve(self, kind, *filters, security=PLAINTEXT):
        """Starts the server, of this kind, and waits until it is secured as its listener says."""
        self.at = servers.free_address()
        self.listen(*filters, security=security)
        servers.by_listener(self.programs, kind, self.at, self.bootstrap(self.server, "server"))
        until(lambda: security_of(self.at, self.client) == security, 30, f"a server that is secured by {security}")

    def listen(self, *filters, security):
        """Gives the server a listener with these filters."""
        self.control.put(server_listener(self.at, *filters, security=security))

    def call(self, kind, socket, **options):
        """What calls of a client of this kind come to, whose cluster has this transport socket, if any."""
        return calls.summary(self.start(kind, socket, **options))

    def start(self, kind, socket, at=None, **options):
        resources = service("svc", at or self.at)
        if socket:
            resources[2]["transport_socket"] = socket
        self.control.put(*resources)
        options = {"bootstrap": self.bootstrap(self.client, "client"), "data": WHO_AM_I} | options
        return calls.start(self.programs, _CLIENTS[kind](), "xds:///svc", METHOD, **options)

    def bootstrap(self, issued, name):
        return bootstrap(self.folder, self.control.address, providers=issued.providers(self.bundles), name=name)

    def stop(self):
        self.control.stop()
