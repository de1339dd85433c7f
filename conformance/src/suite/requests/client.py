"""Clients of Python: client.py KIND HOST PREFIX COUNT. GET and POST take turns."""

import io
import ssl
import sys
import time
import urllib.request

CA = "/etc/ca.pem"


def wanted(prefix, count):
    for number in range(int(count)):
        yield f"{prefix}/{number}", "POST" if number % 2 else "GET", b"x" if number % 2 else None


def urllib_(host, prefix, count):
    """A connection for each request."""
    context = ssl.create_default_context(cafile=CA)
    for path, method, body in wanted(prefix, count):
        request = urllib.request.Request(f"https://{host}{path}", data=body, method=method)
        with urllib.request.urlopen(request, context=context) as answer:
            assert answer.read() == b"ok\n"


def requests_(host, prefix, count, large=None):
    """One connection."""
    import requests

    with requests.Session() as session:
        session.verify = CA
        for path, method, body in wanted(prefix, count):
            assert session.request(method, f"https://{host}{path}", data=body and (large or body)).text == "ok\n"


def pycurl_(version, host, prefix, count):
    """Debian's binding is to the libcurl of GnuTLS. One connection."""
    import pycurl

    assert "GnuTLS" in pycurl.version, pycurl.version
    curl = pycurl.Curl()
    curl.setopt(curl.CAINFO, CA)
    curl.setopt(curl.HTTP_VERSION, version(curl))
    for path, method, body in wanted(prefix, count):
        into = io.BytesIO()
        curl.setopt(curl.URL, f"https://{host}{path}")
        curl.setopt(curl.WRITEDATA, into)
        if body:
            curl.setopt(curl.POSTFIELDS, body.decode())
        else:
            curl.setopt(curl.HTTPGET, True)
        curl.perform()
        assert into.getvalue() == b"ok\n"


def hold(seconds):
    """The library stays mapped."""
    print("held", flush=True)
    time.sleep(int(seconds))


def main(kind, *arguments):
    {
        "urllib": urllib_,
        "requests": requests_,
        "requests-large": lambda *rest: requests_(*rest, large=bytes(600_000)),
        "pycurl": lambda *rest: pycurl_(lambda curl: curl.CURL_HTTP_VERSION_1_1, *rest),
        "pycurl-2": lambda *rest: pycurl_(lambda curl: curl.CURL_HTTP_VERSION_2_0, *rest),
        "hold": hold,
    }[kind](*arguments)


main(*sys.argv[1:])
