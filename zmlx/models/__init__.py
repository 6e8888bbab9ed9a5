"""Models: whole models of mlx.nn, fused where that pays. See docs/patch.md."""

from __future__ import annotations

from zmlx.models.loss import loss
from zmlx.models.patching import patch, unpatch
from zmlx.models.report import PatchReport, Place
from zmlx.models.validating import Compared, Validation, validate

__all__ = ["Compared", "PatchReport", "Place", "Validation", "loss", "patch", "unpatch", "validate"]
