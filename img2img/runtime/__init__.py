"""Devices, precision, processes, files and streams: everything that is not mathematics."""
