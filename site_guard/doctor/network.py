"""Whether the SuperLink's Fleet port is reached: address, proxy, TLS, and Flower's own API."""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.x509.oid import ExtensionOID, NameOID

from fedstrata.support.errors import UserError
from site_guard.doctor.certificates import check_dates
from site_guard.doctor.checks import Check, ok, problem, unknown

FLEET = 9092
PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")  # as gRPC reads them: the first that is set
NO_PROXY = ("no_grpc_proxy", "no_proxy")
MOST_REPLY = 8192  # bytes of a proxy's answer
# What the system's TLS says of a certificate: numbers of OpenSSL.
EXPIRED, NOT_YET, WRONG_HOST, WRONG_ADDRESS = 10, 9, 62, 64


@dataclass(frozen=True)
class Server:
    """The SuperLink as a site is to reach it.

    Parameters
    ----------
    host, port : str, int
        Of its Fleet API.
    certificates : Path or None
        The authority's; None for a connection without TLS.
    key : Path or None
        The SuperNode's.
    seconds : float
        For each step.
    """

    host: str
    port: int
    certificates: Path | None
    key: Path | None
    seconds: float = 10.0

    @property
    def address(self) -> str:
        """Host and port as gRPC takes them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def read_address(text: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``; raise UserError for anything else."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UserError(f"--superlink {text!r}: write HOST:PORT, such as superlink.example:{FLEET}")
    return host.strip("[]"), int(port)


def check_network(server: Server) -> Iterator[Check]:
    """Check each step of the way in turn, up to the first that fails."""
    from site_guard.doctor.fleet import check_fleet

    proxy, found = check_proxy(server.host, os.environ)
    if not proxy:
        name = _check_name(server)
        yield name
        if name.state != "ok":
            return
    yield found
    try:
        connection = connect(server, proxy)
    except OSError as error:
        yield _not_reached(server, proxy, error)
        return
    with connection:
        yield ok("port", f"{server.address} answers{' through the proxy' if proxy else ''}")
        if server.certificates is None:
            yield problem(
                "TLS", "no --root-certificates: the way to the server is open", "give ca.crt"
            )
        else:
            found, secured = _check_tls(server, connection)
            yield found
            if not secured:
                return
    yield from check_fleet(server)


def proxy_of(host: str, variables: Mapping[str, str]) -> str:
    """Return the proxy through which gRPC connects to ``host``, or ""."""
    proxy = next((variables[name] for name in PROXIES if variables.get(name)), "")
    spared = next((variables[name] for name in NO_PROXY if variables.get(name)), "")
    return "" if any(_covers(entry.strip(), host) for entry in spared.split(",")) else proxy


def check_proxy(host: str, variables: Mapping[str, str]) -> tuple[str, Check]:
    """Return the proxy that stands between, or "", and what to say of it."""
    proxy = proxy_of(host, variables)
    if not proxy:
        return "", ok("proxy", "none is in between")
    if urlsplit(proxy).scheme != "http" or not urlsplit(proxy).hostname:
        return "", problem(
            "proxy",
            f"gRPC cannot use the proxy {proxy!r}, and connects without it",
            "write https_proxy=http://HOST:PORT, or no_proxy with the server's name",
        )
    return proxy, ok("proxy", f"{_without_password(proxy)} is in between")


def connect(server: Server, proxy: str) -> socket.socket:
    """Return a connection to the server, through ``proxy`` unless that is "".

    Raises
    ------
    OSError
        There is none; a `ConnectionError` with the proxy's words where it refuses.
    """
    if not proxy:
        return socket.create_connection((server.host, server.port), server.seconds)
    parts = urlsplit(proxy)
    assert parts.hostname
    made = socket.create_connection((parts.hostname, parts.port or 80), server.seconds)
    try:
        request = f"CONNECT {server.address} HTTP/1.1\r\nHost: {server.address}\r\n\r\n"
        made.sendall(request.encode("ascii"))
        reply = b""
        while b"\r\n\r\n" not in reply and len(reply) < MOST_REPLY:
            if not (more := made.recv(MOST_REPLY)):
                break
            reply += more
        status = reply.partition(b"\r\n")[0].decode("ascii", "replace")
        if status.split()[1:2] != ["200"]:
            raise ConnectionError(f"the proxy refuses: {status[:80]!a}")
    except BaseException:
        made.close()
        raise
    return made


def _check_name(server: Server) -> Check:
    try:
        found = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
    except OSError as error:
        return problem(
            "name",
            f"the name {server.host!r} is not known here: {error.strerror or error}",
            f"a line in /etc/hosts, or ask the network's administrators: getent hosts {server.host}",
        )
    return ok("name", f"{server.host} is {found[0][4][0]}")


def _not_reached(server: Server, proxy: str, error: OSError) -> Check:
    where = f"{server.address}: {error.strerror or error or 'no answer'}"
    if proxy:
        return problem(
            "port",
            f"{where}; the way is through {_without_password(proxy)}",
            f"let the proxy pass CONNECT to {server.address}, or export no_proxy={server.host}",
        )
    if isinstance(error, TimeoutError):
        return problem(
            "port",
            f"{server.address} did not answer within {server.seconds:g} s",
            f"let the firewall pass TCP from here to {server.address}, outgoing",
        )
    return problem(
        "port",
        where,
        f"ask the coordinator whether the SuperLink runs, and for its Fleet port (usually {FLEET})",
    )


def _check_tls(server: Server, connection: socket.socket) -> tuple[Check, bool]:
    """Check the handshake; return what to say, and whether it came about."""
    try:
        context = ssl.create_default_context(cafile=str(server.certificates))
    except (OSError, ssl.SSLError) as error:
        text = f"{server.certificates}: {error.strerror or 'no certificate'}"
        return unknown("TLS", text), False
    context.set_alpn_protocols(["h2"])
    connection.settimeout(server.seconds)
    try:
        with context.wrap_socket(connection, server_hostname=server.host) as secured:
            chosen, data = secured.selected_alpn_protocol(), secured.getpeercert(binary_form=True)
    except ssl.SSLCertVerificationError as error:
        return _distrusted(server, error), False
    except (ssl.SSLError, OSError) as error:
        found = problem(
            "TLS",
            f"{server.address} does not speak TLS: {_short(error)}",
            f"ask the coordinator whether it is the Fleet port, and started without --insecure ({FLEET})",
        )
        return found, False
    if chosen != "h2":
        found = problem(
            "TLS",
            f"{server.address} speaks TLS and no HTTP/2, which gRPC needs: something is in between",
            f"let the proxy or firewall pass {server.address} untouched",
        )
        return found, False
    assert data is not None
    certificate = x509.load_der_x509_certificate(data)
    return check_dates("TLS", f"the certificate of {server.address}", certificate), True


def _distrusted(server: Server, error: ssl.SSLCertVerificationError) -> Check:
    """Return what is wrong with a certificate, which is fetched again without trust in it."""
    certificate = _certificate_of(server)
    if certificate is None:
        return problem("TLS", f"{server.address}: {_short(error)}", "ask the coordinator")
    if error.verify_code in (EXPIRED, NOT_YET):
        return check_dates("TLS", f"the certificate of {server.address}", certificate)
    if error.verify_code in (WRONG_HOST, WRONG_ADDRESS):
        names = ", ".join(_names(certificate))
        return problem(
            "TLS",
            f"the certificate is for {names}, and not for {server.host}",
            "give one of these names with --superlink, or ask for a certificate with this one: "
            f"`fedstrata consortium renew --server {server.host}`",
        )
    issuer = certificate.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    by = ascii(issuer[0].value) if issuer else "another authority"
    return problem(
        "TLS",
        f"the certificate of {server.address} is by {by}, and not by the authority of "
        f"{server.certificates}",
        "compare ca.crt with the coordinator's; if a proxy here opens connections, let it pass "
        f"{server.address} untouched",
    )


def _certificate_of(server: Server) -> x509.Certificate | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # to be described, not used
    try:
        with (
            connect(server, proxy_of(server.host, os.environ)) as connection,
            context.wrap_socket(connection, server_hostname=server.host) as secured,
        ):
            data = secured.getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(data) if data else None
    except (OSError, ValueError):
        return None


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    except x509.ExtensionNotFound:
        return ["no host"]
    assert isinstance(names.value, x509.SubjectAlternativeName)
    return [str(name.value) for name in names.value]


def _covers(entry: str, host: str) -> bool:
    """Return whether an entry of no_proxy is the host's: a name, the end of one, or a network."""
    if not entry:
        return False
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return entry == "*" or host.endswith(entry)


def _without_password(proxy: str) -> str:
    parts = urlsplit(proxy)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or 80}"


def _short(error: OSError) -> str:
    return str(getattr(error, "reason", None) or error.strerror or error)[:80]
