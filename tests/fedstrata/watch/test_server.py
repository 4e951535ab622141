"""The live page is of this machine alone, behind a secret, read-only, and follows the run."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path

import pytest

from fedstrata.protocol.progress import Progress, write_progress
from fedstrata.support.errors import UserError
from fedstrata.watch.server import MOST_STREAMS, Server
from tests.helpers.browser import seen_by_chromium
from tests.helpers.run_results import HOSTILE, write_run


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(write_run(tmp_path / "run"), 0, every=0.02)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.end()
    thread.join()


def ask(
    server: Server, path: str, *, host: str | None = None, method: str = "GET"
) -> tuple[HTTPResponse, str]:
    """Send a request below the secret address, and return the answer with its text."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    headers = {"Host": host or f"localhost:{server.server_port}"}
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer, answer.read().decode()


def events(server: Server) -> HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.request("GET", f"/{server.secret}/events")
    return connection.getresponse()


def next_event(stream: HTTPResponse) -> str:
    while not (line := stream.readline()).startswith(b"data: "):
        assert line, "the stream ended"
    text: str = json.loads(line.removeprefix(b"data: "))
    return text


@pytest.mark.parametrize("name", ["", "report", "style.css", "watch.js"])
def test_each_page_is_there_with_a_policy(server: Server, name: str) -> None:
    answer, text = ask(server, f"/{server.secret}/{name}")
    assert answer.status == 200
    assert text
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in policy
    if name != "report":
        assert "unsafe" not in policy
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_nobody_without_the_secret_sees_anything(server: Server) -> None:
    for path in ("/", "/report", "/events", "/wrong/", f"/{server.secret[:-1]}/", "//", "/%00/"):
        answer, text = ask(server, path)
        assert answer.status == 404
        assert server.secret not in text


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "evil.example:{port}", "localhost:1"]
)
def test_another_name_of_this_machine_is_refused(server: Server, host: str) -> None:
    answer, _ = ask(server, f"/{server.secret}/", host=host.format(port=server.server_port))
    assert answer.status == 421


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_changed(server: Server, method: str) -> None:
    answer, _ = ask(server, f"/{server.secret}/", method=method)
    assert answer.status == 501


@pytest.mark.parametrize("name", ["../run.json", "results.json", "style.css/../../x", "watch.html"])
def test_no_other_file_is_served(server: Server, name: str) -> None:
    assert ask(server, f"/{server.secret}/{name}")[0].status == 404


def test_only_this_machine_can_connect(server: Server) -> None:
    assert server.server_address[0] == "127.0.0.1"


def test_changes_of_the_folder_arrive_and_nothing_else(server: Server) -> None:
    stream = events(server)
    assert "60.94 %" in next_event(stream)
    progress = Progress(state="complete", round=3, rounds=5, reason=HOSTILE)
    write_progress(server.path, progress)
    changed = next_event(stream)
    assert "3 of 5" in changed
    assert "<script" not in changed
    stream.close()


def test_too_many_pages_are_refused_and_room_is_given_back(server: Server) -> None:
    open_streams = [events(server) for _ in range(MOST_STREAMS)]
    for stream in open_streams:
        next_event(stream)
    assert ask(server, f"/{server.secret}/events")[0].status == 503
    open_streams[0].close()
    for number in range(200):  # a closed one is noticed when something is sent
        write_progress(server.path, Progress(state="complete", rounds=number))
        again = events(server)
        if again.status == 200:
            break
        again.close()
    assert again.status == 200
    for stream in (*open_streams, again):
        stream.close()


def test_a_report_that_is_not_there_yet_is_said(server: Server) -> None:
    (server.path / "results.json").unlink()
    (server.path / "run.json").write_text("{}")
    answer, text = ask(server, f"/{server.secret}/report")
    assert answer.status == 404
    assert "it is there after round 1" in text


def test_a_port_that_is_taken_is_said(server: Server) -> None:
    with pytest.raises(UserError, match=f"--port {server.server_port}: .*choose another one"):
        Server(server.path, server.server_port)
    with pytest.raises(UserError, match="--port 99999: "):
        Server(server.path, 99999)


def test_a_browser_shows_it_live_and_asks_nobody_else(server: Server, tmp_path: Path) -> None:
    # Chromium looks at the page when nothing is on its way any more: the streams have to end.
    ending = threading.Timer(4, server.ended.set)
    ending.start()
    seen = seen_by_chromium(server.url, tmp_path / "profile")
    ending.join()
    assert seen.messages == []
    assert {url.rpartition("/")[2] for url in seen.asked} == {"style.css", "watch.js", "events"}
    assert all(url.startswith(server.url) for url in seen.asked)
    assert "60.94 %" in seen.html
    assert "not connected" in seen.html  # as the page says itself: its script ran
