"""What `VectorQuantize` and `ResidualVQ` can be built with, checked before anything is built."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import vector_quantize_pytorch as package

from genmm.core.errors import ConfigError

__all__ = ["residual_arguments", "vector_arguments"]

VECTOR = inspect.signature(package.VectorQuantize)
RESIDUAL = inspect.signature(package.ResidualVQ)
GIVEN_BY_RESIDUAL = ("dim", "codebook_size", "codebook_dim", "accept_image_fmap", "heads")


def vector_arguments(args: tuple, named: Mapping[str, Any]) -> dict[str, Any]:
    """Every argument of `VectorQuantize` by name, the package's defaults filled in. Raises: ConfigError."""
    _refuse_unknown("VectorQuantize", named, set(VECTOR.parameters))
    try:
        bound = VECTOR.bind(*args, **named)
    except TypeError as error:
        raise ConfigError(f"VectorQuantize: {error}; it needs at least dim and codebook_size") from error
    bound.apply_defaults()
    chosen = dict(bound.arguments)
    _check_vector("VectorQuantize", chosen)
    return chosen


def residual_arguments(named: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `ResidualVQ` as given, those of its levels checked too. Raises: ConfigError."""
    own = {name for name, one in RESIDUAL.parameters.items() if one.kind is inspect.Parameter.KEYWORD_ONLY}
    _refuse_unknown("ResidualVQ", named, own | set(VECTOR.parameters))
    sizes = named.get("codebook_size")
    levels = named.get("num_quantizers")
    _refuse(
        "ResidualVQ",
        [
            ("dim" not in named or sizes is None, "needs dim and codebook_size"),
            (levels is None and not isinstance(sizes, tuple), "needs num_quantizers, or a tuple as codebook_size"),
            (levels is not None and levels < 1, f"num_quantizers must be at least 1, got {levels}"),
            (
                isinstance(sizes, tuple) and levels is not None and levels != len(sizes),
                f"codebook_size {sizes} has not one size for each of num_quantizers={levels} levels",
            ),
            (named.get("heads", 1) != 1, "heads must be 1: residual levels have no heads; use several ResidualVQ"),
            (
                bool(named.get("shared_codebook")) and isinstance(sizes, tuple) and len(set(sizes)) > 1,
                "shared_codebook needs one codebook_size for all levels",
            ),
            (
                named.get("eval_beam_size") is not None and named.get("beam_size") is None,
                "eval_beam_size needs beam_size",
            ),
        ],
    )
    for size in sizes if isinstance(sizes, tuple) else (sizes,):
        level = {name: value for name, value in named.items() if name in VECTOR.parameters}
        if named.get("implicit_neural_codebook") or named.get("diveq"):
            level.update(learnable_codebook=True, ema_update=False)
        bound = VECTOR.bind(**{**level, "codebook_size": size})
        bound.apply_defaults()
        _check_vector("ResidualVQ", dict(bound.arguments))
    return dict(named)


def _check_vector(name: str, a: Mapping[str, Any]) -> None:
    directional, bridge = a["directional_reparam"], a["vq_bridge"] is not None
    ema = not directional and not bridge if a["ema_update"] is None else a["ema_update"]
    learnable = directional or bridge if a["learnable_codebook"] is None else a["learnable_codebook"]
    rotation = not directional and a["dim"] > 1 if a["rotation_trick"] is None else a["rotation_trick"]
    width = a["dim"] if a["codebook_dim"] is None else a["codebook_dim"]
    sizes = {"dim": a["dim"], "codebook_size": a["codebook_size"], "codebook_dim": width, "heads": a["heads"]}
    _refuse(
        name,
        [
            *(
                (not isinstance(value, Integral) or value < 1, f"{one} must be whole and at least 1, got {value!r}")
                for one, value in sizes.items()
            ),
            (not 0.0 <= a["decay"] <= 1.0, f"decay must be in [0, 1], got {a['decay']}"),
            (a["kmeans_init"] and a["kmeans_iters"] < 1, f"kmeans_iters must be >= 1, got {a['kmeans_iters']}"),
            (
                a["straight_through"] + rotation + directional > 1,
                "straight_through, rotation_trick and directional_reparam exclude each other; rotation_trick is on "
                "unless rotation_trick=False is given",
            ),
            (a["use_cosine_sim"] and learnable, "use_cosine_sim and learnable_codebook exclude each other"),
            (a["use_cosine_sim"] and a["affine_param"], "use_cosine_sim and affine_param exclude each other"),
            (ema and learnable, "learnable_codebook needs ema_update=False"),
            (bridge and not learnable, "vq_bridge needs learnable_codebook=True"),
            (a["straight_through"] and learnable, "straight_through and learnable_codebook exclude each other"),
            (directional and not a["threshold_ema_dead_code"], "directional_reparam needs threshold_ema_dead_code > 0"),
            (not 0.0 <= a["sync_update_v"] <= 1.0, f"sync_update_v must be in [0, 1], got {a['sync_update_v']}"),
            (a["sync_update_v"] > 0.0 and not learnable, "sync_update_v needs learnable_codebook=True"),
        ],
    )


def _refuse_unknown(name: str, named: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(named) - known - {"self"})
    if unknown:
        raise ConfigError(
            f"{name} has no argument {', '.join(unknown)}; it takes {', '.join(sorted(known))}; for other quantizers "
            "(FSQ, LFQ, SimVQ, ...) use the classes of vector_quantize_pytorch"
        )


def _refuse(name: str, rules: list[tuple[bool, str]]) -> None:
    for broken, said in rules:
        if broken:
            raise ConfigError(f"{name}: {said}")
