"""A SuperLink's Fleet port as a site meets it: real certificates, real gRPC, Flower's own checks."""

from __future__ import annotations

import atexit
import ipaddress
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from flwr.proto.fleet_pb2_grpc import FleetServicer, add_FleetServicer_to_server
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatResponse
from flwr.server.superlink.fleet.grpc_rere.fleet_servicer import (
    FleetServicer as FlowersServicer,
)
from flwr.server.superlink.fleet.grpc_rere.node_auth_server_interceptor import (
    NodeAuthServerInterceptor,
)
from flwr.server.superlink.linkstate import LinkState, LinkStateFactory
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.superlink.federation import NoOpFederationManager

DAY = timedelta(days=1)
_ENDED: list[tuple[grpc.Server, ThreadPoolExecutor]] = []  # servers that no test uses any more


@dataclass
class Authority:
    """A certificate authority in memory."""

    name: str

    def __post_init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        self.certificate = self._signed(self.name, self.key, now - 99 * DAY, now + 99 * DAY, [])

    def write(self, path: Path) -> Path:
        """Write the certificate that sites get."""
        path.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        return path

    def server(
        self, *hosts: str, begins: timedelta = -DAY, ends: timedelta = 90 * DAY
    ) -> tuple[bytes, bytes]:
        """Return key and certificate of a server, PEM, valid between two times from now."""
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        certificate = self._signed("server", key, now + begins, now + ends, hosts)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return private, certificate.public_bytes(Encoding.PEM)

    def _signed(self, name: str, key: Any, begins: datetime, ends: datetime, hosts: Any) -> Any:
        def named(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        builder = (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named(self.name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=not hosts, path_length=None), critical=True)
        )
        if hosts:
            names = [_general(host) for host in hosts]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


class _Fleet(FleetServicer):  # type: ignore[misc]
    def SendNodeHeartbeat(self, request: Any, context: Any) -> SendNodeHeartbeatResponse:
        return SendNodeHeartbeatResponse(success=False)


@dataclass
class Registered:
    """What the SuperLink knows of nodes, as Flower keeps it."""

    def __post_init__(self) -> None:
        self.objects = ObjectStoreFactory()
        self.states = LinkStateFactory(
            FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), self.objects
        )

    @property
    def state(self) -> LinkState:
        """Flower's own."""
        return self.states.state()

    def add(self, public_key: bytes) -> int:
        """Register a node's key, as the coordinator does; return the node's id."""
        return self.state.create_node("coordinator", "coordinator", public_key, 0)

    def status(self, node_id: int) -> str:
        """Return what a node is: registered, online, offline or unregistered."""
        (node,) = self.state.get_node_info(node_ids=[node_id])
        return str(node.status)


@contextmanager
def fleet(
    pair: tuple[bytes, bytes] | None,
    *,
    authenticates: bool = True,
    is_fleet: bool = True,
    registered: Registered | None = None,
) -> Iterator[int]:
    """Run a server on a port of 127.0.0.1, which is yielded; without ``pair`` it has no TLS.

    With ``registered`` it is Flower's own.
    """
    nodes = SimpleNamespace(get_node_id_by_public_key=lambda _key: 42)
    states = registered.states if registered else SimpleNamespace(state=lambda: nodes)
    asks = [NodeAuthServerInterceptor(states)]  # type: ignore[arg-type]
    pool = ThreadPoolExecutor(2)
    server = grpc.server(pool, interceptors=asks if authenticates else [])
    if is_fleet:
        flowers = FlowersServicer(states, registered.objects, True) if registered else _Fleet()
        add_FleetServicer_to_server(flowers, server)
    if pair is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    try:
        yield port
    finally:
        # A server that is stopped while a call completes, as calls through a proxy still do now,
        # takes the whole process with it. So all end with the process.
        _ENDED.append((server, pool))


@atexit.register
def _end() -> None:
    if _ENDED:
        time.sleep(0.5)  # the last call completes
    for server, pool in _ENDED:
        server.stop(5).wait()
        pool.shutdown()


def closed_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextmanager
def proxy(status: str) -> Iterator[int]:
    """Run an HTTP proxy that answers CONNECT with ``status`` and, after 200, passes bytes on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_serve, args=(listening, status), daemon=True).start()
        yield int(listening.getsockname()[1])
        listening.shutdown(socket.SHUT_RDWR)


def _serve(listening: socket.socket, status: str) -> None:
    while True:
        try:
            near, _ = listening.accept()
        except OSError:
            return
        threading.Thread(target=_pass, args=(near, status), daemon=True).start()


def _pass(near: socket.socket, status: str) -> None:
    request = near.recv(4096).decode()
    near.sendall(f"HTTP/1.1 {status}\r\n\r\n".encode())
    if not status.startswith("200"):
        near.close()
        return
    host, port = request.split()[1].rsplit(":", 1)
    far = socket.create_connection((host, int(port)))
    for source, target in ((near, far), (far, near)):
        threading.Thread(target=_copy, args=(source, target), daemon=True).start()


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass
