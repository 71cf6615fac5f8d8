"""W&B where its server is not: logged in without a network, keys that are none, a server that refuses. Real W&B."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from commands import environment
from decm.cli.doctor import wandb as doctor
from decm.training.loggers import add_to_summary, build_loggers, finish
from decm.training.wandb_mode import PATIENCE, wandb_mode

KEY = "0123456789abcdef" * 2 + "01234567"
BAD = ["x", "short-key", "a b" * 20, "é" * 39 + "!", KEY[:-1], f"'{KEY}'"]
SETTINGS = {
    "name": "toy",
    "evaluation": {"nfe": [1]},
    "method": {},
    "logger": {"kind": "wandb", "project": None, "entity": None, "group": None, "mode": None, "dir": None},
}
SOON = PATIENCE + 3.0  # seconds


class Refusing(BaseHTTPRequestHandler):
    """A server that knows nobody."""

    def do_GET(self):
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET  # noqa: N815

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def refusing():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def nowhere():
    """An address at which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def silent():
    """A server that takes calls and never answers, as a firewall makes it seem."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def login(monkeypatch, tmp_path):
    """Logs in to a server with a key, for W&B as it starts anew; nobody is logged in by a file."""
    import wandb

    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))

    def log_in(url, key=KEY, **more):
        for name, value in {"WANDB_BASE_URL": url, "WANDB_API_KEY": key, **more}.items():
            monkeypatch.setenv(name, value)
        wandb.teardown()

    yield log_in
    wandb.teardown()


def kept_offline(said, key=KEY):
    """One line of ours, without the key."""
    lines = [line for line in said.splitlines() if line.startswith("W&B: ")]
    return len(lines) == 1 and "kept offline" in lines[0] and key not in said and "Traceback" not in said


@pytest.mark.parametrize("asked", [None, "online"])
def test_without_a_network_a_login_is_offline_with_one_line(login, nowhere, capsys, asked):
    login(nowhere)
    began = time.monotonic()
    assert wandb_mode(asked) == "offline"
    assert time.monotonic() - began < SOON
    out, err = capsys.readouterr()
    assert kept_offline(out + err)
    assert nowhere in out


def test_a_server_that_never_answers_costs_seconds(login, silent, capsys):
    login(silent, WANDB_MODE="online")
    began = time.monotonic()
    assert wandb_mode(None) == "offline"
    assert PATIENCE / 2 < time.monotonic() - began < SOON
    assert kept_offline("".join(capsys.readouterr()))
    assert os.environ["WANDB_MODE"] == "online"


@pytest.mark.parametrize("key", BAD)
def test_a_key_of_another_form_is_offline_with_one_line_that_does_not_have_it(login, refusing, capsys, key):
    login(refusing, key)
    assert wandb_mode(None) == "offline"
    out, err = capsys.readouterr()
    assert kept_offline(out + err, key if len(key) > 1 else KEY)
    assert "the login cannot be used" in out


def test_where_the_server_answers_a_login_is_online_and_aliases_are_those_of_wandb(login, refusing, nowhere):
    login(refusing)
    assert wandb_mode(None) == wandb_mode("run") == "online"
    assert wandb_mode("dryrun") == "offline"
    login(refusing, WANDB_MODE="dryrun")
    assert wandb_mode(None) == "offline"
    login(nowhere, WANDB_MODE="", HTTP_PROXY=refusing, http_proxy=refusing, NO_PROXY="", no_proxy="")
    assert wandb_mode(None) == "online"  # the way out is a proxy


def run_of(folder):
    """What an offline run says of itself, read with W&B's own tool."""
    (run,) = folder.glob("wandb/offline-run-*")
    tool = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run)]
    lines = subprocess.run(tool, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
    return next(line["run"] for line in map(json.loads, lines) if line["type"] == "run")


def test_a_server_that_refuses_the_key_is_offline_in_the_run_folder(login, refusing, tmp_path, capsys):
    login(refusing, WANDB_ENTITY="team")
    began = time.monotonic()
    loggers = build_loggers(SETTINGS, tmp_path, "group")
    assert time.monotonic() - began < 3 * SOON
    finish(loggers)
    assert kept_offline("".join(capsys.readouterr()))
    run = run_of(tmp_path)
    assert (run["project"], run["entity"], run["run_group"]) == ("decm", "team", "group")


def test_what_is_null_is_said_by_the_variables_of_wandb_and_what_is_set_holds(login, nowhere, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    login(nowhere, WANDB_MODE="offline", WANDB_PROJECT="theirs", WANDB_ENTITY="team", WANDB_DIR=str(mine))
    finish(build_loggers(SETTINGS, tmp_path, None))
    run = run_of(mine)
    assert (run["project"], run["entity"]) == ("theirs", "team")
    ours = {**SETTINGS["logger"], "project": "ours", "entity": "me", "dir": str(tmp_path)}
    finish(build_loggers({**SETTINGS, "logger": ours}, tmp_path, None))
    run = run_of(tmp_path)
    assert (run["project"], run["entity"]) == ("ours", "me")


def test_a_setting_that_wandb_refuses_is_a_mistake_by_name(login, nowhere, tmp_path):
    login(nowhere, WANDB_MODE="offline")
    with pytest.raises(ValueError, match="W&B refuses this run"):
        build_loggers({**SETTINGS, "logger": {**SETTINGS["logger"], "project": "a/b"}}, tmp_path, None)


def test_an_evaluation_and_doctor_go_on_without_a_network(login, nowhere, tmp_path, capsys):
    login(nowhere)
    (tmp_path / "wandb_id").write_text("abc")
    add_to_summary(SETTINGS, tmp_path, {"fd/1": 1.0})
    assert kept_offline("".join(capsys.readouterr()))
    assert run_of(tmp_path)["run_id"] == "abc"
    lines = list(doctor())
    assert lines[0] == "mode offline"
    assert kept_offline("\n".join(lines))
    login(nowhere, WANDB_MODE="sometimes")
    assert "sometimes" in "".join(doctor())


def test_the_workspace_is_refused_in_one_sentence_without_a_network(nowhere, tmp_path):
    kept = {name: value for name, value in environment().items() if not name.startswith("WANDB_")}
    done = subprocess.run(
        [sys.executable, "-m", "decm.report.dashboards", "me"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**kept, "WANDB_API_KEY": KEY, "WANDB_BASE_URL": nowhere, "NETRC": str(tmp_path / "netrc")},
    )
    assert done.returncode == 2
    assert nowhere in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert KEY not in done.stdout + done.stderr
