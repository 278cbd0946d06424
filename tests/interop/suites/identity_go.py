"""mTLS by one control plane between ours and grpc-go, in both directions: who calls, and who is refused."""

import pytest

from support.secured import MTLS, PLAINTEXT, TLS, any_policy, rbac, upstream
from support.site import CLIENT, SERVER, username

PAIRS = [("mesh", "grpc-go"), ("grpc-go", "mesh")]
OTHER = "spiffe://mesh.test/ns/other/sa/other"


@pytest.mark.parametrize("client,server", PAIRS)
@pytest.mark.parametrize("security", [MTLS, TLS, PLAINTEXT])
def test_both_sides_do_as_the_control_plane_says(client, server, security, site):
    site.serve(server, security=security)
    done = site.call(client, None if security == PLAINTEXT else upstream(security, SERVER), count=20)
    assert done.codes == {"OK": 20}, done
    done = site.call(client, None if security == PLAINTEXT else upstream(security, SERVER))
    assert username(done.reply) == (CLIENT if security == MTLS else ""), done


@pytest.mark.parametrize("client,server", PAIRS)
def test_a_caller_without_a_certificate_is_refused(client, server, site):
    site.serve(server, security=MTLS)
    done = site.call(client, upstream(TLS, SERVER), count=5, deadline="5s")
    assert done.codes == {"UNAVAILABLE": 5}, done
    assert site.call(client, upstream(MTLS, SERVER)).code == "OK"


@pytest.mark.parametrize("client,server", PAIRS)
def test_a_server_of_another_name_is_refused(client, server, site):
    site.serve(server, security=MTLS)
    done = site.call(client, upstream(MTLS, OTHER), count=5, deadline="5s")
    assert done.codes == {"UNAVAILABLE": 5}, done
    assert site.call(client, upstream(MTLS, OTHER, SERVER)).code == "OK"


@pytest.mark.parametrize("client,server", PAIRS)
@pytest.mark.parametrize("name,code", [(CLIENT, "OK"), (OTHER, "PERMISSION_DENIED")])
def test_a_rule_tells_callers_apart_by_their_names(client, server, name, code, site):
    principal = {"authenticated": {"principal_name": {"exact": name}}}
    site.serve(server, rbac("ALLOW", {"named": any_policy(principals=[principal])}), security=MTLS)
    assert site.call(client, upstream(MTLS, SERVER)).code == code
