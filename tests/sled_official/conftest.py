"""Tiny random checkpoints in the layout in which the authors publish theirs, and a hub on 127.0.0.1 to serve them."""

import hashlib
import http.server
import json
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.utils import close_session
from safetensors.torch import save_file

from genmm.hub import download
from genmm.systems.sled.config import SledConfig
from genmm.systems.sled.encodec import EncodecConfig, EncodecLatents
from genmm.systems.sled.network import SledNetwork
from genmm.systems.sled.tokenizer import train_bpe

SLED_FIELDS = {
    "model_type": "speech_llama",
    "architectures": ["SpeechLlamaForCausalLM"],
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "vae_embed_dim": 8,
    "diffloss_d": 2,
    "diffloss_w": 32,
    "noise_channels": 8,
    "training_cfg": 0.1,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.1,
    "initializer_range": 0.02,
    "use_cache": True,
    "torch_dtype": "float32",
    "transformers_version": "4.47.0",
}
ENCODEC_FIELDS = {
    "model_type": "encodec",
    "architectures": ["EncodecModel"],
    "num_filters": 2,
    "hidden_size": 8,
    "codebook_dim": 8,
    "codebook_size": 16,
    "upsampling_ratios": [8, 5, 4, 2],
    "target_bandwidths": [1.5, 3.0, 6.0],
    "norm_type": "weight_norm",
    "use_causal_conv": True,
    "pad_mode": "reflect",
    "normalize": False,
    "chunk_length_s": None,
    "overlap": None,
    "sampling_rate": 24000,
    "audio_channels": 1,
}
TEXTS = ["Hello there, how are you today?", "The reader reads the text there.", "Hello, hello, are you there?"] * 3


def write_sled(folder: Path, *, streaming: bool) -> Path:
    """An official SLED folder with random weights; every layer, the zero-initialised ones too, does something."""
    torch.manual_seed(11 + streaming)
    folder.mkdir(parents=True)
    tensors = SledNetwork(SledConfig.from_dict(SLED_FIELDS, strict=False)).state_dict()
    tensors = {name: torch.randn_like(value) * 0.1 + (value == 1) for name, value in tensors.items()}
    save_file({**tensors, "bceloss.pos_weight": torch.tensor([100.0])}, folder / "model.safetensors", {"format": "pt"})
    fields = {**SLED_FIELDS, **({"stream_n": 5, "stream_m": 45} if streaming else {})}
    (folder / "config.json").write_text(json.dumps(fields))
    (folder / "generation_config.json").write_text("{}")
    train_bpe(TEXTS, 300).save(folder)
    side = {"padding_side": "right" if streaming else "left", "tokenizer_class": "RobertaTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(side))
    (folder / "special_tokens_map.json").write_text("{}")
    (folder / "README.md").write_text("---\nlanguage:\n- en\n---\n# SLED-TTS\n")
    return folder


def write_encodec(folder: Path, *, old_names: bool = False) -> Path:
    """A transformers EnCodec folder with random weights and weight normalisation in either naming."""
    torch.manual_seed(12)
    folder.mkdir(parents=True)
    codec = EncodecLatents(EncodecConfig.from_official(ENCODEC_FIELDS), codebooks=8)
    names = ("weight_g", "weight_v") if old_names else [f"parametrizations.weight.original{n}" for n in range(2)]
    tensors = {}
    for name, value in codec.state_dict().items():
        if name.endswith(".conv.weight"):
            stem = name.removesuffix("weight")
            tensors[stem + names[0]] = value.flatten(1).norm(dim=1)[:, None, None] * 1.1
            tensors[stem + names[1]] = value * 3.0
        elif name.endswith("embed"):
            tensors[name] = torch.randn_like(value)
            tensors[name + "_avg"] = tensors[name].clone()
            tensors[name.replace("embed", "cluster_size")] = torch.ones(len(value))
            tensors[name.replace("embed", "inited")] = torch.ones(1)
        else:
            tensors[name] = value
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(ENCODEC_FIELDS))
    (folder / "preprocessor_config.json").write_text("{}")
    return folder


@pytest.fixture(scope="session")
def official_folders(tmp_path_factory) -> dict[str, Path]:
    """Read-only official folders under the names offline, streaming and encodec."""
    home = tmp_path_factory.mktemp("official")
    return {
        "offline": write_sled(home / "SLED-TTS-Libriheavy", streaming=False),
        "streaming": write_sled(home / "SLED-TTS-Streaming-Libriheavy", streaming=True),
        "encodec": write_encodec(home / "encodec_24khz"),
        "encodec_old": write_encodec(home / "encodec_24khz_old", old_names=True),
    }


class LocalHub:
    """As much of the hub's protocol as the client uses, on 127.0.0.1: listing, HEAD and GET with ranges.

    Attributes to change in a test: `faults` maps "repo/file" to a list of faults, one used up by each GET ("cut" ends
    the connection half-way, "stall" sends half and waits for `release`, "flip" changes one byte, "long" sends one byte
    more, "ignore range" answers 200, a number is an HTTP status); `licences` and `announced` (size, digest) per name.
    """

    def __init__(self, repos: dict[str, Path]) -> None:
        self.repos, self.faults, self.licences, self.announced = repos, {}, {}, {}
        self.commits = {repo: hashlib.sha1(repo.encode()).hexdigest() for repo in repos}
        self.requests: list[tuple[str, str, str]] = []
        self.release = threading.Event()
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub.answer(self, send_body=False)

            def do_GET(self) -> None:
                hub.answer(self, send_body=True)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # clients that are killed or that hang up are part of the tests
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def ranges(self, name: str) -> list[str]:
        """The Range header of every GET of a file, "" where there was none."""
        return [wanted for method, path, wanted in self.requests if method == "GET" and path.endswith(name)]

    def answer(self, request: http.server.BaseHTTPRequestHandler, send_body: bool) -> None:
        path = urllib.parse.unquote(request.path.partition("?")[0])
        self.requests.append((request.command, path, request.headers.get("Range", "")))
        if path.startswith("/api/models/"):
            repo = path.removeprefix("/api/models/").partition("/revision/")[0]
            self.send(request, 200, json.dumps(self.listing(repo)).encode()) if repo in self.repos else self.gone(
                request
            )
            return
        repo, _, rest = path.lstrip("/").partition("/resolve/")
        commit, _, name = rest.partition("/")
        file = self.repos.get(repo, Path("/nowhere")) / name
        if commit not in ("main", self.commits.get(repo)) or not file.is_file():
            self.gone(request)
            return
        faults = self.faults.get(f"{repo}/{name}", []) if send_body else []
        self.send_file(request, repo, file, faults.pop(0) if faults else None, send_body)

    def listing(self, repo: str) -> dict:
        siblings = []
        for file in sorted(self.repos[repo].iterdir()):
            size, digest = self.announced.get(f"{repo}/{file.name}", (file.stat().st_size, None))
            content = file.read_bytes()
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            entry = {"rfilename": file.name, "size": size, "blobId": digest or blob}
            if file.suffix == ".safetensors":
                entry["lfs"] = {
                    "size": size,
                    "sha256": digest or hashlib.sha256(content).hexdigest(),
                    "pointerSize": 134,
                }
            siblings.append(entry)
        licence = {"license": self.licences[repo]} if repo in self.licences else {}
        return {"id": repo, "modelId": repo, "sha": self.commits[repo], "siblings": siblings, "cardData": licence}

    def send_file(self, request, repo: str, file: Path, fault: str | int | None, send_body: bool) -> None:
        content = file.read_bytes()
        if isinstance(fault, int):
            self.send(request, fault, b"{}")
            return
        if fault == "flip":
            content = content[:-1] + bytes([content[-1] ^ 1])
        content += b"x" if fault == "long" else b""
        start = int((request.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
        start = 0 if fault == "ignore range" else start
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        body = content[start:]
        for name, value in {"ETag": '"x"', "X-Repo-Commit": self.commits[repo], "Content-Length": len(body)}.items():
            request.send_header(name, str(value))
        request.send_header("Accept-Ranges", "bytes")
        request.end_headers()
        if not send_body:
            return
        if fault in ("cut", "stall"):
            request.wfile.write(body[: len(body) // 2])
            request.wfile.flush()
            if fault == "stall":
                self.release.wait(60)
            request.close_connection = True
            return
        request.wfile.write(body)

    def gone(self, request) -> None:
        self.send(request, 404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def send(self, request, status: int, body: bytes, headers: dict | None = None) -> None:
        request.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)


@pytest.fixture
def hub(official_folders) -> Iterator[LocalHub]:
    """A hub that serves the tiny checkpoints under the published names."""
    local = LocalHub(
        {
            "ICTNLP/SLED-TTS-Libriheavy": official_folders["offline"],
            "ICTNLP/SLED-TTS-Streaming-Libriheavy": official_folders["streaming"],
            "facebook/encodec_24khz": official_folders["encodec"],
        }
    )
    thread = threading.Thread(target=local.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield local
    local.release.set()
    local.server.shutdown()
    thread.join()
    local.server.server_close()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home of genmm."""
    monkeypatch.setenv("GENMM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def client(hub, home, monkeypatch):
    """The hub client of this process, pointed at the local hub; gives the hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(download, "WAIT_S", 0.01)
    yield hub
    close_session()
