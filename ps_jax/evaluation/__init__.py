"""Evaluation: what a system finds, measured by the protocols of CUHK-SYSU and PRW."""

from ps_jax.evaluation.evaluator import Settings, evaluate

__all__ = ["Settings", "evaluate"]
