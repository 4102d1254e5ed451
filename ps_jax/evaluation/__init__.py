"""Evaluation: what a system finds, measured by the protocols of CUHK-SYSU and PRW."""

from ps_jax.evaluation.evaluator import check_evaluation, evaluate
from ps_jax.evaluation.settings import Settings

__all__ = ["Settings", "check_evaluation", "evaluate"]
