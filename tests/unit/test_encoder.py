import functools
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
from open_clip import pretrained as open_clip_pretrained

from motif.encoder import source as sources
from motif.encoder.encoder import Encoder
from motif.encoder.source import EncoderSource, preprocess_of_file, resolve
from motif.errors import InputError, SpaceError
from motif.space import Space, require_same, same_fingerprint

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
ARCHITECTURES = {
    "tiny-vit": {
        "embed_dim": 16,
        "vision_cfg": {
            **{"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32}
        },
        "text_cfg": TEXT,
    },
    "tiny-resnet": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
        "text_cfg": TEXT,
    },
    "tiny-coca": {
        "embed_dim": 16,
        "vision_cfg": {
            **{"image_size": 32, "layers": 1, "width": 64, "patch_size": 8, "head_width": 32},
            **{"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        },
        "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**TEXT, "attn_pooler_heads": 2},
        "custom_text": True,
    },
    "tiny-timm": {
        "embed_dim": 16,
        "vision_cfg": {
            **{"timm_model_name": "resnet10t", "timm_model_pretrained": False},
            **{"timm_pool": "avg", "timm_proj": "linear", "image_size": 64},
        },
        "text_cfg": TEXT,
        "custom_text": True,
    },
}


@pytest.fixture(scope="module", autouse=True)
def architectures(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("architectures")
    for name, config in ARCHITECTURES.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    before = dict(open_clip.factory._MODEL_CONFIGS)
    open_clip.add_model_config(folder)
    yield folder
    open_clip.factory._MODEL_CONFIGS.clear()
    open_clip.factory._MODEL_CONFIGS.update(before)


@pytest.fixture(scope="module")
def checkpoint(architectures):
    """Save random weights of an architecture, once, and return the file."""

    def save(name: str, suffix: str = "safetensors", seed: int = 0) -> Path:
        path = architectures / f"{name}-{seed}.{suffix}"
        if path.exists():
            return path
        torch.manual_seed(seed)  # which is not all that CoCa's weights depend on
        state = open_clip.create_model(name).state_dict()
        if suffix == "safetensors":
            safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, path)
        else:
            torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
        return path

    return save


@pytest.fixture(scope="module")
def load(checkpoint):
    @functools.cache
    def make(name: str, suffix: str = "safetensors", seed: int = 0) -> Encoder:
        file = checkpoint(name, suffix, seed)
        return Encoder(resolve(f"{name}/{file}"), precision=torch.float32)

    return make


def refusal(call, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    return message


def test_lite_resolves_to_its_folder():
    source = resolve("lite")
    assert source.architecture == "lite"
    assert source.open_clip_name.startswith("local-dir:/")
    assert source.pretrained is None


@pytest.mark.parametrize("name", ["ViT-B-33/openai", "nonsense", "", "/", "Lite", "vit-b/x"])
def test_unknown_model(name):
    message = refusal(resolve, name)
    assert "lite" in message
    assert repr(name.partition("/")[0]) in message


@pytest.mark.parametrize(
    "name", ["ViT-B-32/nonsense", "ViT-B-32", "ViT-B-32/", "ViT-B-32//no/such/file.pt"]
)
def test_unknown_tag_names_the_tags_there_are(name):
    message = refusal(resolve, name)
    assert "laion2b_s34b_b79k" in message
    assert repr(name.partition("/")[2]) in message


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_embeddings_are_open_clip_s_own(name, load, checkpoint):
    ours = load(name)
    model = open_clip.create_model(name, pretrained=str(checkpoint(name))).eval()
    size = ours.space.preprocess.size
    pixels = np.random.default_rng(0).integers(0, 256, (5, size, size, 3), np.uint8)
    mean, std = (torch.tensor(getattr(ours.space.preprocess, key)) for key in ("mean", "std"))
    batch = ((torch.from_numpy(pixels) / 255 - mean) / std).permute(0, 3, 1, 2)
    texts = ["a photo of a dog", "vivid", "Москва"]
    with torch.inference_mode():
        images = model.encode_image(batch, normalize=True).numpy()
        rows = model.encode_text(open_clip.get_tokenizer(name)(texts), normalize=True).numpy()
    found = ours.encode_images(pixels)
    np.testing.assert_allclose(found.embedding, images, atol=2e-5)
    np.testing.assert_allclose(ours.encode_texts(texts), rows, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "dim"),
    [
        ("tiny-vit", 2 * 64),
        ("tiny-resnet", 16 + 64 + 128 + 256 + 512),
        ("tiny-coca", 64),
        ("tiny-timm", 64 + 64 + 128 + 256 + 512),
    ],
)
def test_features_come_beside_the_same_embedding(name, dim, load, checkpoint):
    ours = Encoder(resolve(f"{name}/{checkpoint(name)}"), precision=torch.float32, features=True)
    size = ours.space.preprocess.size
    pixels = np.random.default_rng(1).integers(0, 256, (3, size, size, 3), np.uint8)
    found, without = ours.encode_images(pixels), load(name).encode_images(pixels)
    np.testing.assert_allclose(found.embedding, without.embedding, atol=1e-6)
    assert without.features is None
    assert ours.features_dim == dim
    assert found.features.shape == (3, dim)
    assert ours.space == load(name).space


def test_bfloat16_stays_within_the_cosine(load, checkpoint):
    name = "tiny-vit"
    half = Encoder(resolve(f"{name}/{checkpoint(name)}"), precision=torch.bfloat16)
    pixels = np.random.default_rng(2).integers(0, 256, (16, 32, 32, 3), np.uint8)
    cosine = (
        half.encode_images(pixels).embedding * load(name).encode_images(pixels).embedding
    ).sum(1)
    assert cosine.min() >= 0.999
    assert half.space == load(name).space


def test_many_texts_are_encoded_in_order(load):
    ours = load("tiny-vit")
    texts = [f"number {n}" for n in range(300)]
    rows = ours.encode_texts(texts)
    np.testing.assert_allclose(
        rows[[0, 255, 256, 299]],
        ours.encode_texts([texts[i] for i in (0, 255, 256, 299)]),
        atol=1e-5,
    )


def test_same_weights_in_two_formats_are_one_space(load):
    first, second = load("tiny-vit", "safetensors"), load("tiny-vit", "pt")
    assert first.space == second.space
    assert first.space.fingerprint == second.space.fingerprint


def test_other_weights_are_another_space(load):
    assert load("tiny-vit").space.fingerprint != load("tiny-vit", "pt", 1).space.fingerprint


def test_other_preprocessing_is_another_space(load):
    space = load("tiny-vit").space
    other = replace(space, preprocess=replace(space.preprocess, resize_mode="squash"))
    assert space.fingerprint != other.fingerprint
    with pytest.raises(SpaceError, match=other.fingerprint):
        require_same(other, space, what="the table", needed_by="the model")
    require_same(space, replace(space), what="the table", needed_by="the model")


def test_space_survives_json(load):
    space = load("tiny-vit").space
    record = json.loads(json.dumps(space.to_json()))
    assert Space.from_json(record) == space
    assert Space.from_json(record).fingerprint == space.fingerprint


@pytest.mark.parametrize("key", ["encoder", "weights_sha256", "dim", "fingerprint", "preprocess"])
def test_tampered_space_is_refused(load, key):
    record = json.loads(json.dumps(load("tiny-vit").space.to_json()))
    if key == "preprocess":
        record[key]["mean"][0] += 0.1
    else:
        record[key] = 7 if key == "dim" else "x"
    with pytest.raises(SpaceError, match="edited"):
        Space.from_json(record)


def test_space_of_an_older_motif_is_refused_with_what_to_do(load):
    record = json.loads(json.dumps(load("tiny-vit").space.to_json()))
    for other in ({key: record[key] for key in record if key != "features"}, record):
        if "features" in other:
            other["features"] = "another recipe"
        with pytest.raises(SpaceError, match="encode again") as caught:
            Space.from_json(other)
        assert record["fingerprint"] in str(caught.value)
        assert "\n" not in str(caught.value)


def test_features_of_another_recipe_are_another_space(load):
    space = load("tiny-vit").space
    assert replace(space, features="another recipe").fingerprint != space.fingerprint


@pytest.mark.parametrize("record", [{}, {"encoder": "x"}, {"preprocess": None}])
def test_what_is_no_space_is_refused(record):
    with pytest.raises(SpaceError, match="not a description"):
        Space.from_json(record)


def test_model_s_space_is_not_its_encoder_s(load):
    space = load("tiny-vit").space
    ours = same_fingerprint(space, "a" * 64)
    assert ours != space.fingerprint
    assert ours != same_fingerprint(space, "b" * 64)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_of_another_architecture_are_refused(checkpoint, suffix):
    file = checkpoint("tiny-resnet", suffix)
    message = refusal(Encoder, resolve(f"tiny-vit/{file}"))
    assert "tiny-vit" in message
    assert str(file) in message


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "bin"])
@pytest.mark.parametrize(
    "content", [b"", b"not a checkpoint", b"\x80\x04cos\nsystem\n", b"PK\x03\x04broken"]
)
def test_what_is_no_checkpoint_is_refused(tmp_path, suffix, content):
    file = tmp_path / f"weights.{suffix}"
    file.write_bytes(content)
    assert str(file) in refusal(Encoder, resolve(f"tiny-vit/{file}"))


def test_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Payload:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save({"state_dict": Payload()}, tmp_path / "weights.pt")
    refusal(Encoder, resolve(f"tiny-vit/{tmp_path}/weights.pt"))
    assert not (tmp_path / "ran").exists()


def test_checkpoint_of_something_else_is_refused(tmp_path):
    for number, value in enumerate(({}, [1, 2], {"state_dict": {}}, torch.zeros(3))):
        file = tmp_path / f"{number}.pt"
        torch.save(value, file)
        assert str(file) in refusal(Encoder, resolve(f"tiny-vit/{file}"))


def test_file_is_preprocessed_as_the_tags_of_its_architecture_are(tmp_path):
    # SigLIP squashes and has other means than CLIP, which open_clip takes for every file.
    file = tmp_path / "weights.pt"
    file.write_bytes(b"x")
    source = EncoderSource("any", "ViT-B-16-SigLIP", "ViT-B-16-SigLIP", str(file))
    assert preprocess_of_file(source) == {
        "image_mean": (0.5, 0.5, 0.5),
        "image_std": (0.5, 0.5, 0.5),
        "image_interpolation": "bicubic",
        "image_resize_mode": "squash",
    }
    # The tags of this one disagree on the mean; there open_clip's default stays.
    several = preprocess_of_file(replace(source, architecture="ViT-L-14"))
    assert "image_mean" not in several


def test_tag_of_weights_with_another_activation_finds_its_architecture(monkeypatch):
    monkeypatch.setattr(sources, "_require_reachable", lambda name, config: None)
    assert resolve("ViT-B-32/openai").architecture == "ViT-B-32-quickgelu"
    assert resolve("ViT-B-32/laion2b_s34b_b79k").architecture == "ViT-B-32"


# The hub: real sockets, and processes of their own, since HF_ENDPOINT is read at import.


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves `files`, by path, as the Hugging Face hub does."""

    files: dict[str, bytes]
    requests: list[str]

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = urllib.parse.unquote(self.path)
        self.requests.append(f"{self.command} {path}")
        data = self.files.get(path)
        self.send_response(404 if data is None else 200)
        if data is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        else:
            self.send_header("ETag", '"0123456789abcdef"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        if body and data:
            self.wfile.write(data)

    def log_message(self, format, *arguments):
        pass


@pytest.fixture
def hub(checkpoint) -> Iterator[tuple[str, type[Hub]]]:
    file = checkpoint("tiny-vit")
    served = {"/motif/tiny/resolve/main/open_clip_model.safetensors": file.read_bytes()}
    handler = type("TinyHub", (Hub,), {"files": served, "requests": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    server.server_close()


@pytest.fixture
def closed_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def silent_server() -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def python(code: str, *arguments: str, endpoint: str, home: Path, timeout: float = 120):
    environment = {
        **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
        **{"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"},
    }
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        **{"env": environment, "capture_output": True, "text": True, "timeout": timeout},
        check=False,
    )


ASK = """
import sys, time
from motif.command import exit_on_refusal
from motif.encoder.source import resolve
start = time.perf_counter()
try:
    with exit_on_refusal():
        resolve(sys.argv[1])
finally:
    print(time.perf_counter() - start)
"""
TINY = """
import sys, time
import open_clip
from open_clip import pretrained
open_clip.add_model_config(sys.argv[1])
pretrained._PRETRAINED["tiny-vit"] = {"test": pretrained._pcfg(hf_hub="motif/tiny/")}
from motif.encoder.encoder import Encoder
from motif.encoder.source import resolve
start = time.perf_counter()
encoder = Encoder(resolve("tiny-vit/test"))
print(encoder.space.fingerprint, time.perf_counter() - start)
"""


def test_hub_that_refuses_connections(closed_port, tmp_path):
    done = python(ASK, "ViT-B-32/laion2b_s34b_b79k", endpoint=closed_port, home=tmp_path)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert closed_port in line
    assert "--encoder lite" in line
    assert float(done.stdout) < 10


@pytest.mark.soak
def test_hub_that_never_answers(silent_server, tmp_path):
    done = python(ASK, "ViT-S-32-alt/x", endpoint=silent_server, home=tmp_path)
    assert done.returncode == 2
    done = python(ASK, "ViT-B-32/laion2b_s34b_b79k", endpoint=silent_server, home=tmp_path)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert silent_server in line
    assert float(done.stdout) < 30


def test_hub_that_serves_and_then_is_gone(hub, closed_port, architectures, load, tmp_path):
    endpoint, handler = hub
    expected = load("tiny-vit").space.fingerprint
    done = python(TINY, str(architectures), endpoint=endpoint, home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == expected
    assert any(request.startswith("GET") for request in handler.requests)
    done = python(TINY, str(architectures), endpoint=closed_port, home=tmp_path)
    assert done.returncode == 0, done.stderr
    fingerprint, seconds = done.stdout.split()
    assert fingerprint == expected
    assert float(seconds) < 30


def test_repository_without_the_weights(hub, monkeypatch):
    endpoint, handler = hub
    monkeypatch.setattr(sources.constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        sources.constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    )
    assert "holds no open_clip_model.safetensors" in refusal(
        sources._require_reachable, "tiny-vit/x", {"hf_hub": "motif/other/"}
    )
    sources._require_reachable("tiny-vit/x", {"hf_hub": "motif/tiny/"})
    # An entry may name its file; the repository is what stands before it.
    handler.requests.clear()
    handler.files["/motif/vitamin/resolve/main/pytorch_model.bin"] = b"x"
    sources._require_reachable("tiny-vit/x", {"hf_hub": "motif/vitamin/pytorch_model.bin"})
    assert handler.requests[-1] == "HEAD /motif/vitamin/resolve/main/pytorch_model.bin"


def test_weights_on_a_plain_web_server(hub, silent_server, closed_port, monkeypatch):
    endpoint, handler = hub
    handler.files["/clip/weights.pt"] = b"x"
    sources._require_reachable("a/b", {"url": f"{endpoint}/clip/weights.pt"})
    monkeypatch.setattr(sources, "HUB_TIMEOUT_SECONDS", 0.5)
    start = time.perf_counter()
    for where in (f"{endpoint}/gone.pt", f"{closed_port}/w.pt", f"{silent_server}/w.pt"):
        assert where in refusal(sources._require_reachable, "a/b", {"url": where})
    assert time.perf_counter() - start < 5


def test_every_tag_of_open_clip_can_be_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(
        sources, "try_to_load_from_cache", lambda *names: asked.append(names) or "x"
    )
    for model, tag in open_clip.list_pretrained():
        sources._require_reachable("x", open_clip_pretrained.get_pretrained_cfg(model, tag))
    assert asked
    assert all(repository.count("/") == 1 for repository, _ in asked)
