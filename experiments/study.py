"""What the studies share: a study has parts, each a table in results/<budget>/<study>/, made by one experiment file.

    python -m experiments.theory +experiment=theory_talk                       one part
    python -m experiments.theory -m '+experiment=glob(theory_*)' budget=paper  all of them

A part is a function from the study's config to its `Work` (experiments.units): the same settings are computed once, a
killed command goes on after the last whole unit. What identifies a table are the seed, the part's settings, which are
`config.sizes.<part>` from conf/<study>/<budget>.yaml, and the part's `Work.identity`: a `version`, raised when the code
comes to compute other numbers from the same settings, and whatever else the numbers depend on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from bsnn import provenance
from bsnn.config import StudyConfig, checked
from bsnn.errors import UserError
from experiments.units import Work, compute, threads_for

STUDIES = ("theory", "vanishing", "shrinkage", "collapse", "bridge")

C = TypeVar("C", bound=StudyConfig)


def register(study: str, schema: type[StudyConfig]) -> None:
    """Make the study's schema known to Hydra, as conf/<study>.yaml names it."""
    ConfigStore.instance().store(name=f"{study}_schema", node=schema)


def run(study: str, config: DictConfig, schema: type[C], parts: Mapping[str, Callable[[C], Work]]) -> dict[str, Any]:
    """Compute what is missing of results/<budget>/<study>/<part>.csv; returns the record beside it."""
    typed = checked(config, schema)
    if typed.part not in parts:
        raise UserError(f"part: expected one of {', '.join(parts)}, found {typed.part!r}.")
    device = provenance.choose_device(typed.device)
    path = Path(typed.results_dir) / typed.budget.name / study / typed.part
    about = {"study": study, "part": typed.part, "config": OmegaConf.to_container(config, resolve=True)}
    work = parts[typed.part](typed)
    settings = OmegaConf.to_container(config.sizes[typed.part], resolve=True)
    identity = {"study": study, "part": typed.part, "seed": typed.seed, "sizes": settings, **work.identity}
    return compute(replace(work, identity=identity), path, about, device, threads_for(device, typed.threads))
