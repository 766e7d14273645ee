"""Objectives, the train loop and its reports."""
