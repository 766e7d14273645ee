"""Restoration as a service: many clients, one worker that owns the device, results in memory for an hour."""
