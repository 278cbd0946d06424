"""gRPC's own interop tests: our client on servers of grpc-go and C-core, and grpc-go's client on our server."""

import pytest

from support import servers
from support.places import C_CORE, PYTHON, ours, peer
from support.xds import Folder, bootstrap, service

CASES = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "rpc_soak",
    "channel_soak",
]
CASE_SECONDS = 20


@pytest.fixture(scope="module", params=["grpc-go", "c-core"])
def server(request, module_programs):
    """An interop server that is not ours."""
    if request.param == "grpc-go":
        return module_programs.serve("interop-server-go", [peer("interop-server")])
    return module_programs.serve("interop-server-c-core", [PYTHON, C_CORE / "interop_server.py"])


@pytest.fixture(scope="module")
def config(server, module_programs):
    """The bootstrap of a go-control-plane that knows the server as `interop`."""
    folder = Folder(module_programs.folder / f"resources-{server.name}")
    folder.put(*service("interop", server.address))
    return bootstrap(module_programs.folder, servers.go_control_plane(module_programs, folder).address)


@pytest.fixture(scope="module")
def our_server(module_programs):
    return module_programs.serve("interop-server", [ours("interop-server"), "--listen", "127.0.0.1:0"])


def _host_and_port(server):
    host, port = server.address.rsplit(":", 1)
    return [f"--server_host={host}", f"--server_port={port}"]


def _pass(programs, argv, case, env=None):
    client = programs.start(case, [*argv, f"--test_case={case}"], env)
    assert client.wait(CASE_SECONDS) == 0


@pytest.mark.parametrize("case", CASES)
def test_our_client_by_host_and_port(programs, server, case):
    _pass(programs, [ours("interop-client"), *_host_and_port(server)], case)


@pytest.mark.parametrize("case", CASES)
def test_our_client_through_xds(programs, server, config, case):
    argv = [ours("interop-client"), "--server=xds:///interop"]
    _pass(programs, argv, case, {"GRPC_XDS_BOOTSTRAP": str(config)})


@pytest.mark.parametrize("case", CASES)
def test_go_client_on_our_server(programs, our_server, case):
    _pass(programs, [peer("client"), *_host_and_port(our_server)], case)
