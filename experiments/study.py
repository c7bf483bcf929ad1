"""The common part of the studies: a study has parts, each a table in results/<budget>/<study>/.

    python -m experiments.theory budget=paper                 all parts; what is finished is skipped
    python -m experiments.theory part=talk                    one of them
    python -m experiments.theory -m part=talk seed=0,1,2      others lie in other_settings/

A part is a function from the study's config to its `Work` (experiments.units). The same settings are computed once, and
a killed command goes on after the last whole unit. A table's identity consists of the seed, the part's settings
(`config.sizes.<part>` from conf/<study>/<budget>.yaml), the constants that its code names (experiments.constants), and
the part's `Work.identity`: a `version`, raised when the code begins to compute other numbers from the same settings and
constants, and whatever else the numbers depend on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from bsnn.config import StudyConfig, checked
from bsnn.errors import UserError
from bsnn.results import provenance
from experiments import constants, places
from experiments.units import Work, compute, threads_for

ALL = "all"
STUDIES = ("theory", "vanishing", "shrinkage", "collapse", "bridge", "beyond")

C = TypeVar("C", bound=StudyConfig)


def register(study: str, schema: type[StudyConfig]) -> None:
    """Register the study's schema with Hydra under the name that conf/<study>.yaml uses."""
    ConfigStore.instance().store(name=f"{study}_schema", node=schema)


def run(study: str, config: DictConfig, schema: type[C], parts: Mapping[str, Callable[[C], Work]]) -> None:
    """Compute what is missing of results/<budget>/<study>/<part>.csv, of one part or of all of them.

    A table with other settings than the budget's own goes to other_settings/ there (experiments.places). If one of all
    parts can't be computed, the others still are. Raises UserError for a part that the study doesn't have.
    """
    if config.part != ALL and config.part not in parts:
        raise UserError(f"part: expected {ALL} or one of {', '.join(parts)}, found {config.part!r}.")
    problems = []
    for part in parts if config.part == ALL else [config.part]:
        try:
            _run_part(study, OmegaConf.merge(config, {"part": part}), schema, parts[part])
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))


def _run_part(study: str, config: Any, schema: type[C], part: Callable[[C], Work]) -> None:
    typed = checked(config, schema)
    device = provenance.choose_device(typed.device)
    work = work_of(study, config, typed, part)
    own = places.own_settings(study, f"part={typed.part}", config)
    same = _settings(config) == _settings(own)
    own_work = work if same else work_of(study, own, checked(own, schema), part)
    folder = Path(typed.results_dir) / typed.budget.name / study
    path = places.place(folder, typed.part, work.identity, own_work.identity)
    about = {"study": study, "part": typed.part, "config": OmegaConf.to_container(config, resolve=True)}
    compute(work, path, about, device, threads_for(device, typed.threads))


def work_of(study: str, config: DictConfig, typed: C, part: Callable[[C], Work]) -> Work:
    """Return the part's work with its whole identity."""
    work = part(typed)
    settings = OmegaConf.to_container(config.sizes[typed.part], resolve=True)
    identity = {"study": study, "part": typed.part, "seed": typed.seed, "sizes": settings, **work.identity}
    depends = {f"{study}.{typed.part}.{name}": value for name, value in work.depends.items()}
    changed = constants.changed(constants.found(part) | depends)
    return replace(work, identity={**identity, **({"constants": changed} if changed else {})})


def _settings(config: DictConfig) -> dict[str, Any]:
    """Collect all settings that a part can see."""
    settings = OmegaConf.to_container(config, resolve=True)
    assert isinstance(settings, dict)
    return {**{str(key): value for key, value in settings.items()}, "sizes": settings["sizes"][config.part]}
