"""The page as programs see it: gradio_client and plain HTTP against a real server with a tiny model."""

from __future__ import annotations

import http.server
import json
import threading
import wave
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import handle_file

from app.web.waiting import PER_VISITOR

SNAPSHOT = Path(__file__).with_name("api.json")
LONG = {"stop_threshold": 1.0, "max_s": 300.0}
"""Settings with which the tiny model speaks for minutes of sound: its stop head never comes near 1."""


def samples_of(path: str) -> np.ndarray:
    with wave.open(path) as reader:
        return np.frombuffer(reader.readframes(reader.getnframes()), "<i2")


def speak(client, text: str = "one two three", **more):
    return client.predict(text=text, api_name="/speak", **more)


# ---------------------------------------------------------------- what there is


def test_the_api_is_what_the_snapshot_says(connect):
    found = {}
    for name, endpoint in connect().view_api(return_format="dict", print_info=False)["named_endpoints"].items():
        found[name] = {
            "parameters": [
                [p["parameter_name"], "optional" if p["parameter_has_default"] else "required"]
                for p in endpoint["parameters"]
            ],
            "returns": [value["label"] for value in endpoint["returns"]],
        }
    assert found == json.loads(SNAPSHOT.read_text()), "a public endpoint changed; if that is meant, update api.json"


def test_health_is_short_json(page):
    answer = httpx.get(f"{page}genmm/health").json()
    assert answer["status"] == "ok"
    assert {"model_loaded", "queue_length", "queue_max", "memory_bytes", "running"} <= answer.keys()
    assert answer["memory_bytes"] > 10_000_000


def test_status_names_models_and_no_paths(connect, model_folder):
    facts = connect().predict(api_name="/status")
    tiny = next(model for model in facts["models"] if model["name"] == "tiny")
    assert tiny["licence"] == "CC0-1.0"
    assert tiny["parameters"] > 1000
    assert str(model_folder.parent) not in json.dumps(facts)


def test_voices_come_with_the_models_default_first(connect):
    assert connect().predict(api_name="/voices") == ["ben", "anna"]


def test_the_served_page_names_no_other_server(page):
    html = httpx.get(page).text
    assert "fonts.googleapis" not in html
    assert "fonts.gstatic" not in html
    assert "fonts.googleapis" not in httpx.get(f"{page}theme.css").text
    config = httpx.get(f"{page}config").json()
    assert config["analytics_enabled"] is False


# ---------------------------------------------------------------- speech


def test_a_text_becomes_sound_with_a_recipe(connect):
    files, recipe = speak(connect(), voice="anna", seed="7", takes=2, guidance=1.5)
    assert [Path(path).suffix for path in files] == [".wav", ".wav"]
    sounds = [samples_of(path) for path in files]
    assert all(len(sound) > 640 for sound in sounds)
    assert not np.array_equal(sounds[0], sounds[1])
    assert recipe["task"] == "speech"
    assert recipe["settings"]["voice"] == "anna"
    assert recipe["settings"]["guidance"] == 1.5
    assert [take["seed"] for take in recipe["takes"]][0] == 7
    assert recipe["text_spoken"] == "one two three."


def test_the_same_seed_gives_the_same_sound_to_everybody(connect):
    one, two = (speak(connect(), seed="11")[0][0] for _ in range(2))
    other = speak(connect(), seed="12")[0][0]
    assert np.array_equal(samples_of(one), samples_of(two))
    assert not np.array_equal(samples_of(one), samples_of(other))


def test_a_take_can_be_made_again_alone_from_its_seed(connect):
    client = connect()
    files, recipe = speak(client, seed="3", takes=3)
    again, _ = speak(client, seed=str(recipe["takes"][2]["seed"]))
    first, second = samples_of(files[2]).astype(int), samples_of(again[0]).astype(int)
    assert len(first) == len(second)
    assert np.abs(first - second).max() <= 2  # batching rounds differently


def test_an_uploaded_voice_is_used(connect, recording):
    client = connect()
    own, recipe = speak(client, recording=handle_file(str(recording)), transcript="one two", seed="1")
    named, _ = speak(client, voice="anna", seed="1")
    assert recipe["settings"]["voice"] == "recording"
    assert len(samples_of(own[0])) > 0
    assert not np.array_equal(samples_of(own[0]), samples_of(named[0]))


def test_sound_arrives_in_pieces_before_the_end(connect):
    client = connect()
    job = client.submit(text="one two three four five six", seed="5", api_name="/speak_stream")
    job.result(timeout=300)
    updates = job.outputs()
    pieces = [piece for piece, _, info in updates if info["state"] == "speaking"]
    assert len(pieces) >= 2
    _, files, last = updates[-1]
    assert last["state"] == "done"
    joined = np.concatenate([samples_of(piece) for piece in pieces])
    whole = samples_of(files[0])
    assert len(joined) == len(whole)
    assert np.abs(joined.astype(int) - whole.astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"text": "   "}, "empty"),
        ({"text": "a" * 2001}, "2000"),
        ({"text": "hi", "takes": 9}, "takes"),
        ({"text": "hi", "seed": "x"}, "seed"),
        ({"text": "hi", "guidance": 99}, "guidance"),
        ({"text": "hi", "voice": "nobody"}, "nobody"),
        ({"text": "hi", "voice": "../../etc/passwd"}, "no voice"),
        ({"text": "hi", "model": "/etc"}, "choose one of: tiny"),
        ({"text": "hi", "settings": {"stop_thresold": 1}}, "stop_thresold"),
        ({"text": "!!!"}, "nothing to say"),
    ],
)
def test_mistakes_are_explained(connect, model_folder, given, said):
    with pytest.raises(Exception, match=said) as caught:
        connect().predict(api_name="/speak", **given)
    assert str(model_folder.parent) not in str(caught.value)
    assert "Traceback" not in str(caught.value)


# ---------------------------------------------------------------- several visitors, cancel, queue


def test_cancelling_one_run_frees_the_device_and_spares_others(connect, server, until):
    first, second = connect(), connect()
    long = first.submit(text="one", settings=LONG, api_name="/speak_stream")
    until(lambda: any(info["state"] == "speaking" for *_, info in long.outputs()), "the first piece")
    waiting = second.submit(text="two", seed="4", api_name="/speak")
    assert [run.session for run in server.runs.active()] == [first.session_hash]
    long.cancel()
    files, recipe = waiting.result(timeout=300)
    assert len(files) == 1
    assert recipe["takes"][0]["seed"] == 4
    until(lambda: not server.runs.active(), "all runs to end")
    assert not any(thread.name == "genmm-run" for thread in threading.enumerate())


def test_the_cancel_endpoint_stops_the_callers_runs_only(connect, server, until):
    first, second = connect(), connect()
    long = first.submit(text="one", settings=LONG, api_name="/speak")
    until(lambda: bool(server.runs.active()), "the run to start")
    assert second.predict(api_name="/cancel") == 0
    assert len(server.runs.active()) == 1
    assert first.predict(api_name="/cancel") == 1
    with pytest.raises(Exception, match="cancelled"):
        long.result(timeout=300)
    until(lambda: not server.runs.active(), "the run to end")


def test_a_waiting_job_is_cancelled_at_once(connect, server, until):
    first, second = connect(), connect()
    long = first.submit(text="one", settings=LONG, api_name="/speak")
    until(lambda: bool(server.runs.active()), "the run to start")
    waiting = second.submit(text="two", api_name="/speak")
    until(lambda: second.predict(api_name="/status")["queue_length"] == 1, "the job to wait")
    assert second.predict(api_name="/cancel") == 1
    with pytest.raises(Exception, match="cancelled"):
        waiting.result(timeout=300)
    assert len(server.runs.active()) == 1
    first.predict(api_name="/cancel")
    with pytest.raises(Exception, match="cancelled"):
        long.result(timeout=300)


def test_a_client_that_leaves_does_not_hold_the_device(connect, server, until, page):
    session = "leaving-session"
    with httpx.Client(base_url=page, timeout=300) as client:
        config = client.get("config").json()
        number = next(dep["id"] for dep in config["dependencies"] if dep["api_name"] == "speak_stream")
        data = ["one", "", "", None, "", None, None, 1, "", LONG]
        joined = client.post("gradio_api/queue/join", json={"data": data, "fn_index": number, "session_hash": session})
        assert joined.status_code == 200
        with client.stream("GET", "gradio_api/queue/data", params={"session_hash": session}) as stream:
            next(line for line in stream.iter_lines() if "speaking" in line)
            assert len(server.runs.active()) == 1
    until(lambda: not server.runs.active(), "the abandoned run to end")


def test_a_full_queue_says_so(connect, server, until):
    clients = [connect() for _ in range(6)]
    jobs = [clients[0].submit(text="one", settings=LONG, api_name="/speak")]
    until(lambda: bool(server.runs.active()), "the first run")
    try:
        jobs += [client.submit(text="two", api_name="/speak") for client in clients[1:]]
        refused = []
        until(
            lambda: refused.extend(j for j in jobs[1:] if j.done() and j not in refused) or len(refused) >= 2,
            "2 refusals",
        )
        for job in refused:
            with pytest.raises(Exception, match="[Qq]ueue is full"):
                job.result(timeout=1)
    finally:
        clients[0].predict(api_name="/cancel")
    served = [job for job in jobs[1:] if job not in refused]
    assert len(served) == 3
    assert all(job.result(timeout=300) for job in served)


def test_one_visitor_cannot_fill_the_queue(connect, page):
    client = connect()
    numbers = {d["api_name"]: d["id"] for d in httpx.get(f"{page}config").json()["dependencies"]}
    body = {"data": speak_data(None, LONG), "fn_index": numbers["speak"], "session_hash": client.session_hash}
    joined = [httpx.post(f"{page}gradio_api/queue/join", json=body) for _ in range(PER_VISITOR + 3)]
    try:
        assert joined[-1].status_code == 503
        assert "queue is full" in joined[-1].text or f"{PER_VISITOR} jobs waiting" in joined[-1].text
    finally:
        client.predict(api_name="/cancel")


def test_visitors_have_batches_of_their_own(connect):
    first, second = connect(), connect()
    archive, report = first.predict(texts="one\ntwo", api_name="/batch")
    assert report["state"] == "done"
    with pytest.raises(Exception, match="no batch"):
        second.predict(api_name="/batch_resume")
    _, again = first.predict(api_name="/batch_resume")
    assert again["items"] == report["items"]


# ---------------------------------------------------------------- batches


def test_a_manifest_becomes_a_zip(connect, tmp_path):
    rows = [{"id": "a", "text": "one two"}, {"id": "b", "text": "three", "seed": 5, "voice": "anna"}]
    manifest = tmp_path / "in.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    archive, report = connect().predict(manifest=handle_file(str(manifest)), seed="1", api_name="/batch")
    assert (report["total"], report["done"], report["failed"]) == (2, 2, 0)
    assert [item["id"] for item in report["items"]] == ["a", "b"]
    with zipfile.ZipFile(archive) as packed:
        assert {"a.wav", "a.json", "b.wav", "b.json", "results.jsonl", "manifest.jsonl"} == set(packed.namelist())
        assert json.loads(packed.read("b.json"))["seeds"] == [5]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "no rows"),
        ([{"text": "x"}], "id"),
        ([{"id": "a", "text": "x"}, {"id": "a", "text": "y"}], "line 2"),
        ([{"id": "../a", "text": "x"}], "line 1"),
        ([{"id": "a", "text": "x", "voice": "/etc/passwd"}], "no voice"),
        ([{"id": "a", "text": "x", "voice": "voice.wav"}], "no voice"),
        ([{"id": "a", "text": ""}], "empty"),
        ([{"id": f"n{n}", "text": "x"} for n in range(501)], "500"),
    ],
)
def test_a_bad_manifest_is_refused_before_any_work(connect, server, tmp_path, rows, said):
    manifest = tmp_path / "in.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = set(server.storage.files.glob("runs/*"))
    with pytest.raises(Exception, match=said) as caught:
        connect().predict(manifest=handle_file(str(manifest)), api_name="/batch")
    assert str(server.storage.root) not in str(caught.value)
    assert set(server.storage.files.glob("runs/*")) == before


def test_a_batch_has_one_voice_for_rows_that_name_none(connect):
    archive, _ = connect().predict(texts="one", voice="anna", api_name="/batch")
    with zipfile.ZipFile(archive) as packed:
        assert json.loads(packed.read("line_1.json"))["settings"]["voice"] == "anna"


@pytest.mark.parametrize("voice", ["/etc/passwd", "voice.wav", "../anna"])
def test_the_voice_of_a_batch_is_never_a_file(connect, voice):
    with pytest.raises(Exception, match="has no voice"):
        connect().predict(texts="one", voice=voice, api_name="/batch")


def test_a_cancelled_batch_goes_on_where_it_stopped(connect, server, until):
    client = connect()
    texts = "\n".join(["one two three four five six seven eight nine ten"] * 24)
    job = client.submit(texts=texts, seed="2", api_name="/batch")
    until(lambda: any((info or {}).get("done", 0) >= 4 for _, info in job.outputs()), "four items")
    assert client.predict(api_name="/cancel") == 1
    _, stopped = job.result(timeout=300)
    assert stopped["state"] == "stopped"
    done = {item["id"] for item in stopped["items"]}
    assert 4 <= len(done) < 24
    _, report = client.predict(api_name="/batch_resume")
    assert (report["state"], report["done"]) == ("done", 24)
    assert [item for item in report["items"] if item["id"] in done] == stopped["items"]


# ---------------------------------------------------------------- hostile requests


def join(page: str, name: str, data: list) -> httpx.Response:
    number = next(d["id"] for d in httpx.get(f"{page}config").json()["dependencies"] if d["api_name"] == name)
    body = {"data": data, "fn_index": number, "session_hash": "probe"}
    return httpx.post(f"{page}gradio_api/queue/join", json=body)


def file_data(path: str) -> dict:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def speak_data(recording: dict | None, settings: dict | None = None) -> list:
    return ["one", "", "", recording, "", None, None, 1, "", settings]


def test_no_address_is_fetched_for_a_visitor(page):
    asked = []

    class Canary(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Canary) as canary:
        threading.Thread(target=canary.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{canary.server_port}/secret.wav"
        for url in (address, "http://169.254.169.254/latest/meta-data", "file:///etc/passwd", "https://example.org/a"):
            assert join(page, "speak", speak_data(file_data(url))).status_code == 400
            assert httpx.get(f"{page}gradio_api/file={url}").status_code == 403
        assert httpx.get(f"{page}gradio_api/proxy={address}").status_code == 404
        canary.shutdown()
    assert asked == []


@pytest.mark.parametrize("path", ["/etc/passwd", "/proc/self/environ", "../../../etc/passwd", "pyproject.toml"])
def test_a_path_as_upload_is_not_opened(connect, page, path):
    assert join(page, "speak", speak_data(file_data(path))).status_code == 200  # queued, then refused
    with httpx.stream("GET", f"{page}gradio_api/queue/data", params={"session_hash": "probe"}, timeout=300) as stream:
        last = next(line for line in stream.iter_lines() if "process_completed" in line)
    message = json.loads(last.removeprefix("data: "))
    assert message["success"] is False
    assert "root:" not in last
    assert "/tmp" not in last


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../../../../etc/passwd",
        "%2e%2e/%2e%2e/etc/passwd",
        "app/web/main.py",
        ".env",
        "/proc/self/environ",
    ],
)
def test_files_of_the_machine_are_not_sent(page, name):
    assert httpx.get(f"{page}gradio_api/file={name}").status_code in (403, 404)


def test_a_link_in_the_upload_folder_is_not_followed(page, server, tmp_path):
    (tmp_path / "secret.wav").write_bytes(b"secret")
    link = server.storage.run_folder() / "a.wav"
    link.symlink_to(tmp_path / "secret.wav")
    assert httpx.get(f"{page}gradio_api/file={link}").status_code == 403


def test_too_large_uploads_are_refused(page):
    answer = httpx.post(f"{page}gradio_api/upload", files={"files": ("a.wav", b"\0" * 700_000)})
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "name",
    [
        "../../up.wav", "a" * 300 + ".wav", "\u202egpj.wav", "x\ty.wav", "con.wav", "\U0001f600.wav", "a\0b.wav",
    ],
)  # fmt: skip
def test_odd_upload_names_stay_inside(page, server, name):
    answer = httpx.post(f"{page}gradio_api/upload", files={"files": (name, b"RIFF")})
    assert answer.status_code in (200, 400, 422)
    if answer.status_code == 200:
        assert all(Path(path).resolve().is_relative_to(server.storage.files) for path in answer.json())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.wav", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"),
        ("a.html", b"<script>alert(1)</script>"),
        ("a.wav", b"ffconcat version 1.0\nfile 'neighbour.wav'\n"),
        ("a.m3u8", b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n"),
        ("a.wav", b""),
        ("a.wav", b"RIFF\xff\xff\xff\xffWAVEfmt "),
        ("a.zip", b"PK\x03\x04" + b"\0" * 100),
    ],
)
def test_uploads_that_are_no_sound_give_a_message(connect, tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(Exception, match="sound|audio|empty|format|read") as caught:
        speak(connect(), recording=handle_file(str(path)))
    assert "/tmp" not in str(caught.value)


def test_direct_calls_cannot_jump_the_queue(page):
    answer = httpx.post(f"{page}gradio_api/run/speak", json={"data": speak_data(None)})
    assert answer.status_code == 404
