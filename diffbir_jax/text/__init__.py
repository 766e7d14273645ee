"""Prompts to tokens."""
