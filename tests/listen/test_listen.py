"""`ialcms listen` as a user meets it: a real server process, real requests, a real browser."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from ialcms.runs.run_folder import RunFolder
from tests.inference.test_separate_file import write_video
from tests.support import ON_CPU, ROOT
from tests.support.browser import chromium, collect_problems
from tests.support.evaluation import make_small_run

BOXES = {"objects": [{"name": "bell", "at": 0.5, "edges": [0.1, 0.1, 0.5, 0.6]}]}
MOST_BYTES = 3_000_000


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Server:
    url: str
    process: subprocess.Popen
    work: Path

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """path: below the secret, or from the root with a slash. As the server's own page would ask."""
        connection = http.client.HTTPConnection(self.host, timeout=120)
        full = path if path.startswith("/") else urlsplit(self.url).path + path
        sent = {"Origin": f"http://{self.host}"} | (headers or {})
        connection.request(method, full, body, sent, encode_chunked="Transfer-Encoding" in sent)
        answer = connection.getresponse()
        found = Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        connection.close()
        return found

    def upload(self, video: Path) -> Any:
        answer = self.ask("POST", f"videos?name={quote(video.name)}", video.read_bytes())
        assert answer.status == 201, answer.body
        return answer.json

    def files(self) -> list[Path]:
        return [path for path in self.work.rglob("*") if path.is_file()]


@contextmanager
def serving(run: RunFolder, work: Path, *options: str) -> Iterator[Server]:
    work.mkdir()
    command = [sys.executable, "-m", "ialcms", "listen", str(run.path), "--port", "0", "--work", str(work), *options]
    with subprocess.Popen(command, cwd=ROOT, env=ON_CPU, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("open http://127.0.0.1:"), line
            yield Server(line.split()[1], process, work)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_small_run(tmp_path_factory.mktemp("listen"))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a kind that browsers do not play."""
    return write_video(tmp_path_factory.mktemp("video") / "my duet.mkv", 2.0, rate=44_100)


@pytest.fixture(scope="module")
def server(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    work = tmp_path_factory.mktemp("served") / "work"
    with serving(run, work, "--max-mb", str(MOST_BYTES / 1e6), "--max-minutes", "0.1") as server:
        yield server


def wait_until_done(server: Server, identity: str) -> Any:
    deadline = time.monotonic() + 240
    while (answer := server.ask("GET", f"videos/{identity}").json)["state"] in ("waiting", "separating"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return answer


def test_drop_draw_and_listen(server: Server, video: Path) -> None:
    with chromium() as browser:
        page = browser.new_context(viewport={"width": 1000, "height": 900}).new_page()
        page.set_default_timeout(120_000)
        problems, requests = collect_problems(page), []
        page.on("request", lambda request: requests.append(request.url))
        page.goto(server.url)
        page.locator("input[type=file]").set_input_files(video)
        frame = page.locator(".canvas .frame")
        frame.wait_for()
        page.wait_for_function("() => frame.naturalWidth === 64")
        area = frame.bounding_box()
        assert area is not None

        def drag(x1: float, y1: float, x2: float, y2: float) -> None:
            page.mouse.move(area["x"] + x1 * area["width"], area["y"] + y1 * area["height"])
            page.mouse.down()
            page.mouse.move(area["x"] + x2 * area["width"], area["y"] + y2 * area["height"], steps=3)
            page.mouse.up()

        drag(0.1, 0.1, 0.4, 0.6)
        drag(0.9, 0.9, 0.6, 0.2)
        page.get_by_label("Name of object 1").fill("<b>bell</b>")
        page.get_by_label("Name of object 2").fill("harp")
        page.get_by_role("button", name="Box of harp").press("ArrowLeft")
        edges = page.evaluate("objects.map((object) => object.edges)")
        assert edges[0] == pytest.approx([0.1, 0.1, 0.4, 0.6], abs=0.01)
        assert edges[1] == pytest.approx([0.59, 0.2, 0.89, 0.9], abs=0.01)
        page.get_by_role("button", name="Separate", exact=True).click()
        page.wait_for_url("**/page")
        page.wait_for_function("() => !playButton.disabled")
        assert page.get_by_role("heading", level=1).inner_text() == "my_duet.mkv"
        assert page.evaluate("tracks.map((track) => track.name)") == ["1 <b>bell</b>", "2 harp", "Remainder"]
        page.get_by_role("button", name="Play", exact=True).click()
        page.wait_for_function("() => position() > 0.2")
        page.go_back()
        page.get_by_role("link", name="2-harp.wav").wait_for()
        with page.expect_download() as download:
            page.get_by_role("link", name="2-harp.wav").click()
        assert Path(download.value.path()).stat().st_size > 2 * 44_100 * 4
        page.get_by_role("button", name="Another video").click()
        page.wait_for_function("() => !location.search.includes('video')")
        assert problems == []
        assert all(url.startswith((server.url, "data:", "blob:")) for url in requests)
        browser.close()


def test_what_the_separation_refuses_is_said(server: Server, video: Path) -> None:
    found = server.upload(video)
    late = {"objects": [BOXES["objects"][0] | {"at": 900}]}
    headers = {"Content-Type": "application/json"}
    assert server.ask("POST", f"videos/{found['id']}/separation", json.dumps(late), headers).status == 202
    answer = wait_until_done(server, found["id"])
    assert answer["state"] == "failed"
    assert "has no frame at 900 s" in answer["message"]
    assert str(server.work) not in answer["message"]
    assert server.ask("GET", f"videos/{found['id']}/page").status == 404
    assert server.ask("DELETE", f"videos/{found['id']}").status == 200
    assert server.files() == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),  # DNS rebinding: a name that was made to lead here
        ({"Host": "evil.example:8765", "Origin": "http://evil.example:8765"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "["}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 404),  # through a tunnel of another port
        ({"Origin": "http://evil.example"}, 403),  # another page's request
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
    ],
)
def test_other_pages_cannot_ask(server: Server, headers: dict[str, str], status: int) -> None:
    assert server.ask("POST", "videos/none/separation", "{}", headers).status == status
    assert server.ask("DELETE", "videos/none", None, headers).status == status


def test_nothing_without_the_secret(server: Server, video: Path) -> None:
    found = server.upload(video)
    for path in ("/", "/videos", f"/videos/{found['id']}", "/x" * 10, f"/../{found['id']}/page"):
        assert server.ask("GET", path).status in (404, 405), path
    page = server.ask("GET", "")
    assert page.status == 200
    for name, value in {
        "cache-control": "no-store",
        "x-frame-options": "DENY",
        "cross-origin-resource-policy": "same-origin",
        "referrer-policy": "no-referrer",
    }.items():
        assert page.headers[name] == value
    assert "access-control-allow-origin" not in page.headers
    policy = re.search(rb'http-equiv="Content-Security-Policy" content="([^"]+)"', page.body).group(1)
    assert b"default-src 'none'" in policy
    assert b"unsafe" not in policy
    for name in ("../upload/my_duet.mkv", "%2e%2e%2fupload%2fmy_duet.mkv", "video"):
        assert server.ask("GET", f"videos/{found['id']}/files/{name}").status == 404
    server.ask("DELETE", f"videos/{found['id']}")


def test_uploads_have_limits(server: Server, video: Path, tmp_path: Path) -> None:
    large = b"x" * (MOST_BYTES + 1)
    assert server.ask("POST", "videos?name=a", large).status == 413
    chunks = (large[first : first + 100_000] for first in range(0, len(large), 100_000))
    answer = server.ask("POST", "videos?name=a", chunks, {"Transfer-Encoding": "chunked"})  # says no length
    assert answer.status == 413
    assert "more than 3 MB" in answer.json["error"]
    noise = server.ask("POST", "videos?name=note.txt", b"no video")
    assert (noise.status, "note.txt" in noise.json["error"]) == (422, True)
    mute = server.ask("POST", "videos?name=mute.mkv", write_video(tmp_path / "m.mkv", sound=False).read_bytes())
    assert "has no sound" in mute.json["error"]
    source = write_video(tmp_path / "l.mkv", 6.5, frame_rate=Fraction(4))
    long = server.ask("POST", "videos?name=long.mkv", source.read_bytes())
    assert "more than the 0.1 that this server takes" in long.json["error"]
    assert server.files() == []


def test_an_upload_that_breaks_off_leaves_nothing(server: Server) -> None:
    connection = http.client.HTTPConnection(server.host, timeout=60)
    connection.putrequest("POST", urlsplit(server.url).path + "videos?name=a")
    connection.putheader("Origin", f"http://{server.host}")
    connection.putheader("Content-Length", "1000000")
    connection.endheaders(b"x" * 200_000)
    time.sleep(0.5)
    connection.close()
    deadline = time.monotonic() + 60
    while server.files():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert server.ask("GET", "").status == 200


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"objects": []}', '{"objects": [{"name": "a", "at": 0, "edges": [0.5, 0, 0.5, 1]}]}',
     '{"objects": [{"name": "a", "at": NaN, "edges": [0, 0, 1, 1]}]}', '{"objects": [{"at": 0}]}',
     json.dumps({"objects": BOXES["objects"] * 9})],
)  # fmt: skip
def test_boxes_that_are_none(server: Server, video: Path, content: str) -> None:
    found = server.upload(video)
    answer = server.ask("POST", f"videos/{found['id']}/separation", content, {"Content-Type": "application/json"})
    assert answer.status == 422
    assert answer.json["error"]
    assert server.ask("GET", f"videos/{found['id']}").json["state"] == "ready"
    server.ask("DELETE", f"videos/{found['id']}")


def test_only_a_few_videos_are_kept(server: Server, video: Path) -> None:
    uploads = [server.upload(video)["id"] for _ in range(5)]
    statuses = [server.ask("GET", f"videos/{identity}").status for identity in uploads]
    assert statuses == [404, 200, 200, 200, 200]
    assert len(server.files()) == 4
    for identity in uploads[1:]:
        server.ask("DELETE", f"videos/{identity}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_at_the_end(run: RunFolder, video: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Also while a separation is under way."""
    with serving(run, tmp_path / "work") as server:
        found = server.upload(video)
        headers = {"Content-Type": "application/json"}
        server.ask("POST", f"videos/{found['id']}/separation", json.dumps(BOXES), headers)
        time.sleep(1)
        assert server.files()
        server.process.send_signal(number)
        assert server.process.wait(60) == 128 + number
        assert list(server.work.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--max-mb", "0"], "must be greater than 0"),
        (["--work", "nowhere"], "--work nowhere is not a folder; make it first"),
        (["--port", "70000"], "cannot listen on 127.0.0.1 port 70000"),
        (["--host", "203.0.113.7"], "give another --port or --host"),
    ],
)
def test_what_cannot_be_served(
    run: RunFolder, capsys: pytest.CaptureFixture[str], change: list[str], message: str
) -> None:
    from ialcms.cli import main

    assert main(["listen", str(run.path), *change]) == 2
    assert message in capsys.readouterr().err


def test_without_the_server_library_it_says_what_to_install(run: RunFolder) -> None:
    command = ["-m", "tests.blocked", "starlette", "-m", "ialcms", "listen", str(run.path)]
    result = subprocess.run([sys.executable, *command], cwd=ROOT, env=ON_CPU, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "ialcms: error: 'ialcms listen' needs the package starlette; install it with: pip install starlette uvicorn"
    ]
