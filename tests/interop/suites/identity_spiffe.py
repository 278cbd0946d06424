"""SPIFFE bundle maps (A87) and names that are asked for (A101): ours beside C-core and grpc-go, in both directions."""

import dataclasses

import pytest

from support.certificates import Authority, bundle_map
from support.secured import MTLS, TLS, upstream
from support.site import NAME, username

BUNDLES = [("mesh", "c-core"), ("c-core", "mesh"), ("mesh", "grpc-go"), ("grpc-go", "mesh")]
# C-core and grpc-go have these behind flags.
FLAGS = ("GRPC_EXPERIMENTAL_XDS_MTLS_SPIFFE", "GRPC_EXPERIMENTAL_XDS_SNI")
CLIENT, SERVER = "spiffe://a.test/client", "spiffe://b.test/server"


@pytest.fixture(autouse=True)
def flags(monkeypatch):
    for flag in FLAGS:
        monkeypatch.setenv(flag, "true")


@pytest.fixture
def domains(site, tmp_path):
    """A trust domain of the client's and one of the server's, each with an authority of its own."""
    a, b = Authority(tmp_path, "a"), Authority(tmp_path, "b")
    site.bundles = bundle_map(tmp_path / "bundles.json", a_test=a, b_test=b)
    site.server = b.workload("server", SERVER)
    # The roots are for looking at the server from outside.
    site.client = dataclasses.replace(a.workload("client", CLIENT), roots=b.roots)
    return a, b


@pytest.mark.parametrize("client,server", BUNDLES)
def test_each_trust_domain_is_vouched_for_by_its_own_bundle(client, server, site, domains):
    site.serve(server, security=MTLS)
    done = site.call(client, upstream(MTLS, SERVER))
    assert (done.code, username(done.reply)) == ("OK", CLIENT), done


@pytest.mark.parametrize("client,server", BUNDLES)
def test_another_domains_authority_vouches_for_no_caller(client, server, site, domains):
    _, b = domains
    site.serve(server, security=MTLS)
    known = site.client
    site.client = b.workload("impostor", CLIENT)
    done = site.call(client, upstream(MTLS, SERVER), count=3, deadline="5s")
    assert done.codes == {"UNAVAILABLE": 3}, done
    site.client = known
    assert site.call(client, upstream(MTLS, SERVER)).code == "OK"


@pytest.mark.parametrize("client,server", BUNDLES)
def test_another_domains_authority_vouches_for_no_server(client, server, site, domains):
    a, _ = domains
    site.server = a.workload("impostor", SERVER)
    site.client = dataclasses.replace(site.client, roots=a.roots)
    site.serve(server, security=TLS)
    done = site.call(client, upstream(TLS), count=3, deadline="5s")
    assert done.codes == {"UNAVAILABLE": 3}, done


def _asking_for(name):
    """TLS to whom the name is that it asks for."""
    socket = upstream(TLS)
    socket["typed_config"].update(sni=name, auto_sni_san_validation=True)
    return socket


@pytest.mark.parametrize("client,server", BUNDLES)
def test_the_name_that_is_asked_for_must_be_the_servers(client, server, site):
    site.serve(server, security=TLS)
    assert site.call(client, _asking_for(NAME)).code == "OK"
    done = site.call(client, _asking_for("other.test"), count=3, deadline="5s")
    assert done.codes == {"UNAVAILABLE": 3}, done
