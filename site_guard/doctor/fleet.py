"""Whether Flower's Fleet API answers as a site needs it, asked with two requests that it refuses.

The first is a heartbeat, signed with the site's key, of a node that there is not: the SuperLink
checks signature and time first. The second asks to activate the key's node with an interval that no
node may have: the SuperLink looks the key up first. Both are refused before anything changes there.
Flower's insides, tested with Flower 1.31.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from flwr.client.grpc_rere_client.node_auth_client_interceptor import NodeAuthClientInterceptor
from flwr.common.grpc import create_channel
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.proto.fleet_pb2_grpc import FleetStub
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from site_guard.doctor.certificates import read_node_key
from site_guard.doctor.checks import Check, ok, problem, unknown
from site_guard.doctor.network import FLEET, Server

NAMELESS, CLOCK, SIGNATURE = "Invalid node ID", "Invalid timestamp", "Invalid signature"
NOBODYS, NO_INTERVAL = "No SuperNode found with the given public key", "Invalid heartbeat interval"
ANOTHER_API = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNKNOWN)


def check_fleet(server: Server) -> Iterator[Check]:
    """Check that the Fleet API answers over gRPC, and that clock and key are such as it takes."""
    key = read_node_key(server.key) if server.key else None
    signing = [NodeAuthClientInterceptor(key, key.public_key())] if key else []
    root = server.certificates.read_bytes() if server.certificates else None
    channel = create_channel(
        server.address, insecure=root is None, root_certificates=root, interceptors=signing
    )
    request = SendNodeHeartbeatRequest(node=Node(node_id=0), heartbeat_interval=30)
    stub = FleetStub(channel)
    try:
        refusal = _refusal(stub.SendNodeHeartbeat, request, server.seconds)
        if refusal is None:
            yield problem(
                "Fleet API",
                f"{server.address} answers to anybody: it asks for no key",
                "ask the coordinator to start flower-superlink with --enable-supernode-auth",
            )
            return
        yield from _refused(server, *refusal, signed=key is not None)
        if key and refusal == (grpc.StatusCode.UNAUTHENTICATED, NAMELESS):
            asked = ActivateNodeRequest(
                public_key=public_key_to_bytes(key.public_key()), heartbeat_interval=0
            )
            yield _registration(server, _refusal(stub.ActivateNode, asked, server.seconds))
    finally:
        channel.close()


def _refusal(
    call: Callable[..., Any], request: Any, seconds: float
) -> tuple[grpc.StatusCode, str] | None:
    """Return how a request is refused, and in which words; None where it is granted."""
    try:
        call(request, timeout=seconds)
    except grpc.RpcError as error:
        if not isinstance(error, grpc.Call):
            return grpc.StatusCode.UNKNOWN, str(error)
        return error.code(), str(error.details())
    return None


def _registration(server: Server, refusal: tuple[grpc.StatusCode, str] | None) -> Check:
    """Say whether the key is registered, by the refusal to activate its node."""
    name, details = "registration", refusal[1] if refusal else "it was granted"
    if NO_INTERVAL in details:
        return ok(name, "the key is registered")
    if NOBODYS in details:
        public = (server.key or Path("supernode.key")).with_suffix(".pub")
        return problem(
            name,
            "the key is not registered, or was unregistered",
            f"send {public} to the coordinator, who gives `fedstrata consortium add` and `register`",
        )
    return unknown(
        name,
        f"the server does not say whether the key is registered: {_short(details)}",
        "ask the coordinator, or see whether `fedstrata node` connects",
    )


def _refused(
    server: Server, code: grpc.StatusCode, details: str, *, signed: bool
) -> Iterator[Check]:
    """Say what the refusal of the heartbeat means."""
    if code in ANOTHER_API:
        yield problem(
            "Fleet API",
            f"{server.address} speaks gRPC and is not the Fleet API: {_short(details)}",
            f"ask the coordinator for the Fleet port (usually {FLEET})",
        )
        return
    if code != grpc.StatusCode.UNAUTHENTICATED:
        yield problem(
            "Fleet API",
            f"gRPC to {server.address} fails ({code.name}): {_short(details)}",
            f"export no_proxy={server.host}, or let the proxy pass HTTP/2 to it untouched",
        )
        return
    yield ok("Fleet API", f"{server.address} answers, and asks for a key")
    if not signed:
        yield unknown(
            "clock", "the server compares it with a key alone", "give --key supernode.key"
        )
    elif details == CLOCK:
        yield problem(
            "clock",
            f"the server refuses the time of this machine, {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
            "set the clock: timedatectl set-ntp true",
        )
    elif details == NAMELESS:
        yield ok("clock", "within 5 seconds ahead and 5 minutes behind the server's")
    else:
        yield problem(
            "key", f"the server refuses the key: {_short(details)}", "ask the coordinator"
        )


def _short(details: str) -> str:
    return ascii(details[:200])
