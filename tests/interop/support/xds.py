"""xDS resources as the dictionaries that their protojson is, and the folders that control planes serve them from.

One description of a resource serves all control planes: ours and go-control-plane read it as YAML from a folder,
`support.ads` turns it into messages.
"""

import json
import os

import yaml

GOOGLE = "type.googleapis.com/"
LISTENER = GOOGLE + "envoy.config.listener.v3.Listener"
ROUTES = GOOGLE + "envoy.config.route.v3.RouteConfiguration"
CLUSTER = GOOGLE + "envoy.config.cluster.v3.Cluster"
ENDPOINTS = GOOGLE + "envoy.config.endpoint.v3.ClusterLoadAssignment"

_MANAGER = GOOGLE + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = GOOGLE + "envoy.extensions.filters.http.router.v3.Router"
_FAULT = GOOGLE + "envoy.extensions.filters.http.fault.v3.HTTPFault"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

ADS = {"ads": {}, "resource_api_version": "V3"}
HTTP2 = {_HTTP_OPTIONS: {"@type": GOOGLE + _HTTP_OPTIONS, "explicit_http_config": {"http2_protocol_options": {}}}}


def manager(*filters, **more):
    """An HTTP connection manager that ends in the router filter."""
    router = {"name": "router", "typed_config": {"@type": _ROUTER}}
    return {"@type": _MANAGER, "stat_prefix": "interop", "http_filters": [*filters, router], **more}


def fault(**config):
    """What the fault filter is told: `fault(abort={"grpc_status": 5, "percentage": percent(100)})`."""
    return {"@type": _FAULT, **config}


def percent(number):
    return {"numerator": number, "denominator": "HUNDRED"}


def rds(name):
    return {"rds": {"route_config_name": name, "config_source": ADS}}


def listener(name, routes=None, filters=()):
    """A listener for clients without a proxy (A27); its routes have its name unless another is given."""
    return {"@type": LISTENER, "name": name, "api_listener": {"api_listener": manager(*filters, **rds(routes or name))}}


def socket_listener(name, http_filters=(), **http):
    """A listener for Envoy, at a port that the system chooses."""
    filters = [{"name": "http", "typed_config": manager(*http_filters, **http)}]
    return {"@type": LISTENER, "name": name, "address": address("127.0.0.1:0"), "filter_chains": [{"filters": filters}]}


def routes(name, *entries, domains=("*",)):
    hosts = [{"name": "all", "domains": list(domains), "routes": list(entries)}]
    return {"@type": ROUTES, "name": name, "virtual_hosts": hosts}


def route(target, **match):
    """A route to a cluster, or by weight to several: `route({"a": 90, "b": 10})`. It matches everything by default."""
    match = match or {"prefix": "/"}
    if isinstance(target, str):
        return {"match": match, "route": {"cluster": target}}
    clusters = [{"name": name, "weight": weight} for name, weight in target.items()]
    return {"match": match, "route": {"weighted_clusters": {"clusters": clusters}}}


def cluster(name, **more):
    """A cluster whose endpoints come by ADS under its own name."""
    eds = {"type": "EDS", "eds_cluster_config": {"eds_config": ADS}, "lb_policy": "ROUND_ROBIN"}
    return {"@type": CLUSTER, "name": name, **eds, **more}


def endpoints(name, *addresses):
    """The assignment of cluster `name`: all addresses in one locality."""
    return assignment(name, locality("local", *addresses))


def assignment(name, *localities):
    return {"@type": ENDPOINTS, "cluster_name": name, "endpoints": list(localities)}


def locality(region, *members, weight=1, **more):
    """A locality with these addresses, or with what `member` makes of them."""
    members = [member(each) if isinstance(each, str) else each for each in members]
    return {"locality": {"region": region}, "load_balancing_weight": weight, "lb_endpoints": members, **more}


def member(at, weight=None, **more):
    """An endpoint: `member("127.0.0.1:80", weight=2, health_status="DRAINING")`."""
    weights = {} if weight is None else {"load_balancing_weight": weight}
    return {"endpoint": {"address": address(at)}, **weights, **more}


def address(text):
    host, port = text.rsplit(":", 1)
    return {"socket_address": {"address": host, "port_value": int(port)}}


def service(name, *addresses):
    """The four resources of a service whose every call goes to these endpoints."""
    return [listener(name), routes(name, route(name)), cluster(name), endpoints(name, *addresses)]


def name_of(resource):
    return resource.get("cluster_name") or resource["name"]


class Folder:
    """A folder of resources: a YAML file each, put in place whole."""

    def __init__(self, path):
        self.path = path
        path.mkdir()

    def put(self, *resources):
        for resource in resources:
            # The new file is written outside: no reader sees half of it, or a second one.
            new = self.path.parent / "next.yaml"
            new.write_text(yaml.safe_dump(resource, sort_keys=False))
            os.replace(new, self._file(resource))

    def remove(self, resource):
        self._file(resource).unlink()

    def _file(self, resource):
        kind = resource["@type"].rsplit(".", 1)[1]
        return self.path / f"{kind}-{name_of(resource)}.yaml"


def bootstrap(folder, server, node=None, providers=None, name="bootstrap", **more):
    """A gRPC bootstrap file for one ADS server, and its path. `providers` are those of certificates (A29)."""
    path = folder / f"{name}-{server.rsplit(':', 1)[1].replace('/', '-')}.json"
    credentials = [{"type": "insecure"}]
    servers = [{"server_uri": server, "channel_creds": credentials, "server_features": ["xds_v3"]}]
    node = node or {"id": "interop", "cluster": "interop"}
    of_servers = {"server_listener_resource_name_template": "server-%s"}
    certificates = {"certificate_providers": providers} if providers else {}
    path.write_text(json.dumps({"xds_servers": servers, "node": node, **of_servers, **certificates, **more}))
    return path
