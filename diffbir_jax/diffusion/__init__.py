"""Diffusion process: noise schedule, forward noising and conversions between eps, v and x0."""
