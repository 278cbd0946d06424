"""Servers and control planes as the suites start them. Each has its `address`."""

import json
import socket

import grpc

from support.places import C_CORE, PYTHON, ours, peer


def c_core_echo(programs, address="127.0.0.1:0"):
    """gRPC C-core's server: it answers with what it was sent; see its file for what metadata makes it do."""
    return programs.serve("echo-c-core", [PYTHON, C_CORE / "echo_server.py", address])


def go_echo(programs, host="127.0.0.1", env=None, port=0, counts=None):
    """grpc-go's server; it drains on SIGTERM. It counts calls by their numbers in the file `counts`, if there is one."""
    counting = ["-counts", counts] if counts else []
    return programs.serve("echo-go", [peer("echo-server"), "-listen", f"{host}:{port}", *counting], env)


def free_address(host="127.0.0.1"):
    """An address for a server whose control plane must know it before there is one."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return f"{host}:{probe.getsockname()[1]}"


def by_listener(programs, kind, at, config):
    """A server as its control plane has it (A36): ours (`mesh`), gRPC C-core's (`c-core`) or `grpc-go`'s."""
    env = {"GRPC_XDS_BOOTSTRAP": str(config)}
    if kind == "c-core":
        return programs.serve("xds-server-c-core", [PYTHON, C_CORE / "xds_server.py", at], env)
    if kind == "grpc-go":
        return programs.serve("xds-server-go", [peer("xds-server"), "-listen", at], env)
    return programs.serve("interop-server", [ours("interop-server"), "--listen", at, "--secure_mode=true"], env)


def greeter_in_pod(pod, *options):
    """Our greeter in a pod of Istio's, without an agent, at the pod's address."""
    argv = [ours("greeter-server"), "--istio", "--listen", f"{pod.env['INSTANCE_IP']}:0", *options]
    return pod.programs.serve("greeter-server", pod.within(argv), pod.env)


def calls_taken(server):
    """How many calls a C-core echo server had, by its own count."""
    with grpc.insecure_channel(server.address) as channel:
        return int(channel.unary_unary("/interop.Echo/Count")(b"", timeout=10))


def last_call(server):
    """The metadata of the last call that a C-core echo server had, and its `:method`."""
    with grpc.insecure_channel(server.address) as channel:
        return json.loads(channel.unary_unary("/interop.Echo/Last")(b"", timeout=10))


def control_plane(programs, folder, *options):
    """Our control plane."""
    argv = [ours("control-plane"), "--listen", "127.0.0.1:0", *options, folder.path]
    return programs.serve("control-plane", argv)


def go_control_plane(programs, folder, mode="linear"):
    """go-control-plane, whose caches differ: see its file."""
    return programs.serve("go-control-plane", [peer("control-plane"), "-mode", mode, folder.path])


def nacks(program):
    """The requests of clients that refused something, as a control plane printed them."""
    return [line for line in program.json_lines() if line.get("event") == "request" and line["error"]]
