"""What `--encoder` names: checked here, without a long wait and without loading anything."""

import hashlib
import json
import logging
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.factory import LOCAL_DIR_PREFIX
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

from motif.encoder import lite
from motif.errors import InputError

log = logging.getLogger(__name__)

LITE = "lite"
FORMS = "use NAME/PRETRAINED, NAME/FILE, local-dir:FOLDER or lite"
HUB_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class EncoderSource:
    """What `--encoder` names, checked but not yet loaded."""

    name: str
    """What `--encoder` would be from any folder."""
    architecture: str
    """Name for the space: open_clip's, `lite`, or `custom-` and a hash for a `local-dir`."""
    open_clip_name: str
    pretrained: str | None
    """A tag, a file, or None where the name holds the weights."""


def resolve(name: str) -> EncoderSource:
    """Find what `--encoder` names, without a long wait.

    Args:
        name: `lite`, `NAME/PRETRAINED` (a tag that open_clip knows), `NAME/FILE`, or
            `local-dir:FOLDER` with open_clip_config.json and open_clip_model.safetensors in it.

    Raises:
        InputError: Unknown architecture or tag, no such file or folder, or the hub cannot be
            reached.
    """
    if name == LITE:
        return EncoderSource(LITE, LITE, f"{LOCAL_DIR_PREFIX}{lite.ensure_built()}", None)
    if name.startswith(LOCAL_DIR_PREFIX):
        return _resolve_folder(name)
    architecture, _, pretrained = name.partition("/")
    if architecture not in open_clip.list_models():
        close = [m for m in open_clip.list_models() if m.lower().startswith(architecture.lower())]
        raise InputError(
            f"--encoder {name}: open_clip knows no model {architecture!r}"
            f" (close: {close[:5]}); {FORMS}"
        )
    if Path(pretrained).is_file():
        file = str(Path(pretrained).absolute())
        return EncoderSource(f"{architecture}/{file}", architecture, architecture, file)
    tags = list_pretrained_tags_by_model(architecture)
    if pretrained not in tags:
        raise InputError(
            f"--encoder {name}: {pretrained!r} is neither a file nor a pretrained tag of"
            f" {architecture} (tags: {', '.join(tags[:8])}); {FORMS}"
        )
    config = get_pretrained_cfg(architecture, pretrained)
    quick = f"{architecture}-quickgelu"
    if config.get("quick_gelu") and pretrained in list_pretrained_tags_by_model(quick):
        # open_clip only warns, and then encodes with another activation than the weights know.
        log.info("%s is trained with QuickGELU; taken as %s/%s", name, quick, pretrained)
        architecture = quick
    _require_reachable(name, config)
    return EncoderSource(name, architecture, architecture, pretrained)


def preprocess_of_file(source: EncoderSource) -> dict[str, Any]:
    """Return what all tags of the architecture agree on; open_clip takes CLIP's for any file."""
    if source.pretrained is None or not Path(source.pretrained).is_file():
        return {}
    tags = list_pretrained_tags_by_model(source.architecture)
    configs = [get_pretrained_cfg(source.architecture, tag) for tag in tags]
    agreed = {}
    for name in ("mean", "std", "interpolation", "resize_mode"):
        values = {config.get(name) for config in configs} - {None}
        if len(values) == 1:
            agreed[f"image_{name}"] = values.pop()
    return agreed


def _resolve_folder(name: str) -> EncoderSource:
    folder = Path(name.removeprefix(LOCAL_DIR_PREFIX)).absolute()
    if name == LOCAL_DIR_PREFIX or not folder.is_dir():
        raise InputError(f"--encoder {name}: there is no such folder; {FORMS}")
    try:
        model = json.loads((folder / HF_CONFIG_NAME).read_text())["model_cfg"]
        if missing := {"embed_dim", "vision_cfg", "text_cfg"} - set(model):
            raise KeyError(", ".join(sorted(missing)))
        text = dict(model["text_cfg"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = "not found" if isinstance(error, FileNotFoundError) else f"{error!r}"
        raise InputError(
            f"--encoder {name}: {folder / HF_CONFIG_NAME} is not a configuration of open_clip's"
            f" with a model_cfg: {' '.join(reason.split())[:200]}"
        ) from error
    # By its preferred name alone: beside any other, open_clip may choose a pickle.
    if not (folder / HF_SAFE_WEIGHTS_NAME).is_file():
        found = sorted(path.name for path in folder.glob("*.*") if path.name != HF_CONFIG_NAME)
        raise InputError(
            f"--encoder {name}: the folder holds no {HF_SAFE_WEIGHTS_NAME} (found: {found[:5]});"
            " only safetensors weights are read from a folder, and no pickles: save the weights"
            " with safetensors.torch.save_file under that name"
        )
    # Paths into the folder itself would make the same encoder another one elsewhere.
    model["text_cfg"] = {
        key: value for key, value in text.items() if not str(value).startswith("/")
    }
    digest = hashlib.sha256(json.dumps(model, sort_keys=True).encode()).hexdigest()
    full_name = f"{LOCAL_DIR_PREFIX}{folder}"
    tower = text.get("hf_model_name")
    if tower and not Path(tower).is_dir():
        _require_file(name, tower, ["config.json"])
    return EncoderSource(full_name, f"custom-{digest[:8]}", full_name, None)


def _require_reachable(name: str, config: dict[str, Any]) -> None:
    """Ask the hub once: left alone, open_clip retries for minutes before it gives up."""
    # Either `owner/name/` or `owner/name/file`.
    repository, _, file = config.get("hf_hub", "").rpartition("/")
    if not repository:
        _require_url(name, config["url"])
        return
    file = file or HF_WEIGHTS_NAME
    safe = (
        HF_SAFE_WEIGHTS_NAME
        if file == HF_WEIGHTS_NAME
        else str(Path(file).with_suffix(".safetensors"))
    )
    _require_file(name, repository, [safe, file])


def _require_file(name: str, repository: str, files: list[str]) -> None:
    """Find one of the files in the hub's cache or on the hub, in this order."""
    if any(isinstance(try_to_load_from_cache(repository, file), str) for file in files):
        return
    for file in files:
        try:
            get_hf_file_metadata(
                hf_hub_url(repository, file),
                timeout=HUB_TIMEOUT_SECONDS,
                retry_on_errors=False,
            )
        except HfHubHTTPError:
            continue  # the hub answers, only not with this file
        except Exception as error:  # whatever the HTTP client of the day raises
            raise _unreachable(name, constants.ENDPOINT, error) from error
        return
    raise InputError(
        f"--encoder {name}: {repository} on {constants.ENDPOINT} holds no {' or '.join(files)}"
    )


def _require_url(name: str, url: str) -> None:
    """Ask a plain web server for weights that open_clip has not cached: it would wait for ever."""
    if (Path.home() / ".cache" / "clip" / url.rsplit("/", 1)[-1]).is_file():
        return
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=HUB_TIMEOUT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise _unreachable(name, url, error) from error


def _unreachable(name: str, where: str, error: Exception) -> InputError:
    return InputError(
        f"--encoder {name}: the weights cannot be reached at {where} ({type(error).__name__}); pass"
        " a checkpoint as NAME/FILE, fill the Hugging Face cache on a machine with access, or use"
        " --encoder lite"
    )
