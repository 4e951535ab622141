"""Whether Flower's Fleet API answers as a site needs it, asked with a heartbeat of nobody.

The heartbeat is signed with the site's key and names a node that there is not: the SuperLink checks
signature and time first, then refuses it, and nothing changes there. Flower's insides, tested with
Flower 1.31.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import grpc
from flwr.client.grpc_rere_client.node_auth_client_interceptor import NodeAuthClientInterceptor
from flwr.common.grpc import create_channel
from flwr.proto.fleet_pb2_grpc import FleetStub
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node

from site_guard.doctor.certificates import read_node_key
from site_guard.doctor.checks import Check, ok, problem, unknown
from site_guard.doctor.network import FLEET, Server

NAMELESS, CLOCK, SIGNATURE = "Invalid node ID", "Invalid timestamp", "Invalid signature"
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
    try:
        FleetStub(channel).SendNodeHeartbeat(request, timeout=server.seconds)
    except grpc.RpcError as error:
        code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
        details = str(error.details() if isinstance(error, grpc.Call) else error)
        yield from _refused(server, code, details, signed=key is not None)
    else:
        yield problem(
            "Fleet API",
            f"{server.address} answers to anybody: it asks for no key",
            "ask the coordinator to start flower-superlink with --enable-supernode-auth",
        )
    finally:
        channel.close()


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
        yield unknown(
            "registration",
            "whether the key is registered is known once `fedstrata node` connects",
        )
    else:
        yield problem(
            "key", f"the server refuses the key: {_short(details)}", "ask the coordinator"
        )


def _short(details: str) -> str:
    return ascii(details[:200])
