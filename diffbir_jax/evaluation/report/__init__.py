"""The page of an evaluation: tables, plots, and images behind a slider, worst first."""

from diffbir_jax.evaluation.report.page import write_report

__all__ = ["write_report"]
