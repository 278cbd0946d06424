"""Fixtures of all suites."""

import pytest

from support import leaks, servers
from support.calls import mesh
from support.process import Programs
from support.site import Site
from support.xds import Folder, bootstrap


@pytest.fixture(scope="session", autouse=True)
def secrets_stay_secret():
    """Fails the suite, at its end, if a program of ours printed a private key or a token."""
    yield
    assert not leaks.found(), "\n".join(leaks.found())


@pytest.fixture
def programs(tmp_path):
    """Programs that end with the test."""
    started = Programs(tmp_path)
    yield started
    started.stop_all()


@pytest.fixture(scope="module")
def module_programs(tmp_path_factory):
    """Programs that all tests of a suite share."""
    started = Programs(tmp_path_factory.mktemp("shared"))
    yield started
    started.stop_all()


@pytest.fixture
def folder(tmp_path):
    """An empty folder of resources."""
    return Folder(tmp_path / "resources")


@pytest.fixture
def serve(programs, folder, tmp_path):
    """Puts resources into the folder of our control plane, and returns the bootstrap for it."""

    def start(*resources):
        folder.put(*resources)
        return bootstrap(tmp_path, servers.control_plane(programs, folder).address)

    return start


@pytest.fixture
def site(programs, tmp_path):
    """Certificates, and a control plane that asks for them."""
    made = Site(programs, tmp_path)
    yield made
    made.stop()


@pytest.fixture
def client():
    return mesh()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows the end of what its programs printed."""
    report = yield
    programs = item.funcargs.get("programs") if hasattr(item, "funcargs") else None
    if report.failed and programs:
        for program in programs.started:
            report.sections.append((" ".join(program.argv), program.tail()))
    return report
