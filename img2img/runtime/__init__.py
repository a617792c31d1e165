"""Devices, precision, processes and streams: all that is not mathematics."""
