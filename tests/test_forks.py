"""The installed gRPC lets Ray start its daemons: Ray forks in a process that has a channel."""

from __future__ import annotations

import subprocess
import sys

FORKS = 200
FORKING = """
import subprocess, sys
from concurrent import futures
import grpc

class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: request)

if sys.argv[1] == "serve":
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((Echo(),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    sys.stdin.read()
else:
    channel = grpc.insecure_channel("127.0.0.1:" + sys.argv[1])
    channel.subscribe(lambda state: None, try_to_connect=True)  # as Flower's clients do
    ask = channel.unary_unary("/test/echo")
    died = 0
    for _ in range(int(sys.argv[2])):
        ask(b"x")
        died += subprocess.run(["true"], preexec_fn=lambda: None).returncode != 0  # as Ray does
    print(died, flush=True)
    channel.close()
"""


def test_a_process_forked_beside_a_channel_lives() -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", FORKING, "serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    with server:
        port = server.stdout.readline().strip()
        forking = subprocess.run(
            [sys.executable, "-c", FORKING, port, str(FORKS)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        server.stdin.close()
    assert forking.stdout.strip() == "0", forking.stdout + forking.stderr[-2000:]
