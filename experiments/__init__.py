"""Hydra entry points."""

import bsnn.process  # noqa: F401  tells when the command began, before torch takes its seconds
