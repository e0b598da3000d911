"""Health check of a container: ends with 0 when the service at HOST:PORT is ready, or answers at another PATH.

    probe.py HOST:PORT [PATH]

It shows the service's own certificate, where there is one, for the listener asks everybody for one. The connection does
not leave the container, so whose certificate answers does not matter, as long as the authority signed it.
"""

from __future__ import annotations

import os
import ssl
import sys
import urllib.request

SECONDS = 4.0

directory = os.environ.get("AIS_SECURITY__CERTIFICATES")
context = None
if directory:
    context = ssl.create_default_context(cafile=f"{directory}/ca.crt")
    context.check_hostname = False
    context.load_cert_chain(f"{directory}/tls.crt", f"{directory}/tls.key")
url = f"{'https' if directory else 'http'}://{sys.argv[1]}{sys.argv[2] if len(sys.argv) > 2 else '/readyz'}"
urllib.request.urlopen(url, timeout=SECONDS, context=context).close()
