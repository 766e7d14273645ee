"""Samplers: host-side step tables, the guided denoiser, one step function per sampler, one scan."""
