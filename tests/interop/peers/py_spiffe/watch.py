"""Follows the Workload API at SPIFFE_ENDPOINT_SOCKET with the package `spiffe`: a JSON object for each SVID."""

import json
import time

from spiffe import X509Source

with X509Source(timeout_in_seconds=10) as source:
    last = None
    while True:
        svid = source.svid
        if svid.leaf.serial_number != last:
            last = svid.leaf.serial_number
            bundles = source.get_x509_context().x509_bundle_set.bundles
            domains = sorted(bundle.trust_domain.name for bundle in bundles)
            print(json.dumps({"id": str(svid.spiffe_id), "serial": str(last), "domains": domains}), flush=True)
        time.sleep(0.1)
