"""The command itself: ports, signals, and what it says."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dmdd.config.schema import ServeSettings
from dmdd.core.errors import UserError
from dmdd.deploy.serve.limits import Limits
from dmdd.serve import main, open_port
from patience import PATIENCE_S


@contextlib.contextmanager
def running(folder: Path, *arguments: str, cwd: Path) -> Iterator[tuple[subprocess.Popen, str]]:
    command = [sys.executable, "-m", "dmdd.serve", f"model={folder}", "port=0", *arguments]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(
        command, cwd=cwd, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        for line in process.stdout:
            if line.startswith("page"):
                yield process, line.split()[-1]
                return
        raise AssertionError(process.stderr.read())
    finally:
        process.kill()
        process.communicate()


def end_with_open_page(process: subprocess.Popen, address: str, number: int) -> str:
    """End it while a page is open, with its connection; give what it has said on stderr."""
    with httpx.Client(base_url=address, timeout=PATIENCE_S) as client:
        assert client.get("/health").json()["status"] == "ok"
        assert client.get("/").text.startswith("<!doctype html>")
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == 0
    return process.stderr.read()  # uvicorn would complain here if the page had held it up


def test_too_large_an_upload_is_refused_while_it_arrives_and_sigterm_ends_it_cleanly(served_folder, tmp_path):
    with running(served_folder, "limits.upload_mb=1", cwd=tmp_path) as (process, address):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address)
        host, port = address.removeprefix("http://").split(":")
        head = f"POST /predict HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: image/png\r\n"
        for end in ("Content-Length: 10000000000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n"):
            with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
                connection.sendall((head + end).encode())
                if "chunked" in end:
                    for _ in range(30):
                        connection.sendall(b"%x\r\n" % 100_000 + bytes(100_000) + b"\r\n")
                answer = b""
                with contextlib.suppress(ConnectionResetError):
                    while piece := connection.recv(65536):  # ends, since the server closes the connection
                        answer += piece
            assert answer.startswith(b"HTTP/1.1 413")
            assert b'{"error":"the image is larger than 1 MB"}' in answer
        assert httpx.get(f"{address}/health", headers={"Host": "evil.example"}, timeout=PATIENCE_S).status_code == 403
        assert end_with_open_page(process, address, signal.SIGTERM) == ""
    assert list(tmp_path.iterdir()) == []


def test_other_addresses_are_warned_of_and_sigint_ends_it_cleanly(served_folder, tmp_path):
    with running(served_folder, "host=0.0.0.0", cwd=tmp_path) as (process, address):
        local = f"http://127.0.0.1:{address.rpartition(':')[2]}"
        assert httpx.get(f"{local}/health", headers={"Host": "some.name"}, timeout=PATIENCE_S).status_code == 200
        said = end_with_open_page(process, local, signal.SIGINT)
    assert said.startswith("warning: 0.0.0.0 can be reached from other machines; there is no authentication")
    assert len(said.splitlines()) == 1


def test_a_port_in_use_is_one_line(served_folder, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main([f"model={served_folder}", f"port={port}"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert f"error: cannot listen on host=127.0.0.1 port={port}: Address already in use" in lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "model is missing: give model=FOLDER"),
        (["model=nowhere", "port=0"], "no detector.json in .*nowhere"),
        (["model=x", "port=70000"], "port=70000: give a whole number from 0 to 65535"),
        (["model=x", "port=http"], "port=http: give a whole number"),
        (["model=x", "port=0", "host=no.such.host.invalid"], "cannot listen on host=no.such.host.invalid port=0"),
        (["model=x", "limits.queue=0"], "queue=0: give a positive whole number"),
        (["model=x", "limits.que=1"], "que"),
        (["model=x", "port=0", "tile=2"], "tile=2: give true or false"),
        (["--port"], "'--port' is not a setting"),
    ],
)
def test_bad_settings_are_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert re.match(f"error: .*{message}", lines[0])
    assert list(tmp_path.iterdir()) == []


def test_without_fastapi_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.delitem(sys.modules, "dmdd.deploy.serve.api", raising=False)
    assert main(["model=x", "port=0"]) == 2
    assert capsys.readouterr().err == "error: dmdd serve needs fastapi; install it: pip install 'dmdd[serve]'\n"


def test_loopback_is_told_from_other_addresses():
    for host, expected in (("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False)):
        listener, loopback = open_port(host, 0)
        with listener:
            assert loopback is expected
    with pytest.raises(UserError, match="port=True: give a whole number"):
        open_port("127.0.0.1", True)


def test_the_limits_of_the_configuration_are_the_defaults():
    assert Limits(**vars(ServeSettings.compose("model=x").limits)) == Limits()
