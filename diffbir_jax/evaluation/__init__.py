"""Restored images against ground truths: metrics, suites, tables, reports."""
