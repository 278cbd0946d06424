"""What a control plane says of TLS and of access to servers; and how a server is secured, as seen from outside."""

import socket
import ssl

from support.xds import ADS, GOOGLE, LISTENER, address, manager, routes

SERVING = {"match": {"prefix": "/"}, "non_forwarding_action": {}}
MTLS, TLS, PLAINTEXT = "mtls", "tls", "plaintext"

_TLS = "envoy.extensions.transport_sockets.tls.v3"
_RBAC = GOOGLE + "envoy.extensions.filters.http.rbac.v3.RBAC"
_PROVIDER = {"instance_name": "default"}
# A client's preface and its empty SETTINGS.
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS = 4


def _socket(context, **config):
    return {"name": "envoy.transport_sockets.tls", "typed_config": {"@type": f"{GOOGLE}{_TLS}.{context}", **config}}


def upstream(own, *sans):
    """The transport socket of a cluster: TLS to servers with one of these names; if MTLS, with a certificate of its own."""
    validation = {"ca_certificate_provider_instance": _PROVIDER}
    if sans:
        validation["match_subject_alt_names"] = [{"exact": san} for san in sans]
    identity = {"tls_certificate_provider_instance": _PROVIDER} if own == MTLS else {}
    return _socket("UpstreamTlsContext", common_tls_context={"validation_context": validation, **identity})


def downstream(asks):
    """The transport socket of a filter chain: TLS, which asks callers for a certificate or does not."""
    common = {"tls_certificate_provider_instance": _PROVIDER}
    if asks == MTLS:
        common["validation_context"] = {"ca_certificate_provider_instance": _PROVIDER}
    return _socket("DownstreamTlsContext", common_tls_context=common, require_client_certificate=asks == MTLS)


def by_secrets(agent, own, roots, *sans):
    """A TLS context whose certificate and roots are secrets of these names (SDS), which the agent at a Unix socket has; a
    cluster of Envoy's, in a dictionary; or if there is none the control plane."""
    service = agent if isinstance(agent, dict) else {"google_grpc": {"target_uri": f"unix:{agent}", "stat_prefix": "agent"}}
    at = {"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [service]}
    place = {"api_config_source": at, "resource_api_version": "V3"} if agent else ADS
    secret = lambda name: {"name": name, "sds_config": place}
    names = [{"san_type": "URI", "matcher": {"exact": san}} for san in sans]
    validation = {"default_validation_context": {"match_typed_subject_alt_names": names} if names else {}}
    validation["validation_context_sds_secret_config"] = secret(roots)
    return {"tls_certificate_sds_secret_configs": [secret(own)], "combined_validation_context": validation}


def upstream_by_secrets(*secrets):
    """The transport socket of a cluster, by the secrets of an agent."""
    return _socket("UpstreamTlsContext", common_tls_context=by_secrets(*secrets))


def downstream_by_secrets(*secrets):
    """The transport socket of a filter chain that asks callers for a certificate, by the secrets of an agent."""
    return _socket("DownstreamTlsContext", common_tls_context=by_secrets(*secrets), require_client_certificate=True)


def certificate_secret(name, issued):
    """A secret with a certificate and its key."""
    chain, key, _ = issued.pem()
    pair = {"certificate_chain": _inline(chain), "private_key": _inline(key)}
    return {"@type": f"{GOOGLE}{_TLS}.Secret", "name": name, "tls_certificate": pair}


def roots_secret(name, *authorities, domain=None):
    """A secret with roots; of a trust domain, as SPIRE sends them, if there is one."""
    roots = _inline(b"".join(authority.roots.read_bytes() for authority in authorities))
    validation = {"trusted_ca": roots}
    if domain:
        config = {"trust_domains": [{"name": domain, "trust_bundle": roots}]}
        typed = {"@type": f"{GOOGLE}{_TLS}.SPIFFECertValidatorConfig", **config}
        validation = {"custom_validator_config": {"name": "envoy.tls.cert_validator.spiffe", "typed_config": typed}}
    return {"@type": f"{GOOGLE}{_TLS}.Secret", "name": name, "validation_context": validation}


def _inline(pem):
    return {"inline_string": pem.decode()}


def rbac(action, policies, name="rbac"):
    """The filter for access (A41); an action of `None` has no rules."""
    rules = {} if action is None else {"rules": {"action": action, "policies": policies}}
    return {"name": name, "typed_config": {"@type": _RBAC, **rules}}


def any_policy(**policy):
    """A policy for all callers and calls, but for what is given."""
    return {"permissions": [{"any": True}], "principals": [{"any": True}], **policy}


def server_listener(at, *filters, security=PLAINTEXT, http=None, **more):
    """The listener of a server at this address: one chain, every call is served."""
    table = routes("inline", SERVING)
    del table["@type"]
    http = http or manager(*filters, route_config=table)
    chain = {"filters": [{"name": "http", "typed_config": http}]}
    if security != PLAINTEXT:
        chain["transport_socket"] = downstream(security)
    return {"@type": LISTENER, "name": f"server-{at}", "address": address(at), "filter_chains": [chain], **more}


def security_of(at, caller):
    """How the port is secured, by what answers in HTTP/2: MTLS answers only who shows the caller's certificate.

    Nothing if nobody is answered.
    """
    tries = {PLAINTEXT: None, TLS: client_context(caller.roots), MTLS: client_context(caller.roots, caller)}
    return next((kind for kind, context in tries.items() if _answers(at, context)), None)


def client_context(roots, own=None):
    """For `ssl`: TLS with HTTP/2 to servers that the roots vouch for, with a certificate of its own if there is one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Whose certificate it is says the name of a workload, which Python does not look at.
    context.check_hostname = False
    context.load_verify_locations(roots)
    context.set_alpn_protocols(["h2"])
    if own:
        context.load_cert_chain(own.certificate, own.key)
    return context


def _answers(at, context):
    host, port = at.rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), timeout=5) as plain:
            stream = context.wrap_socket(plain) if context else plain
            stream.sendall(_HELLO)
            head = stream.recv(9)
            return len(head) == 9 and head[3] == _SETTINGS
    except OSError:
        return False
