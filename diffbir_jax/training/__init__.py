"""Objectives, the train loop and what it reports."""
