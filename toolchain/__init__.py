"""Obtains what the project runs on: the Python environment, the Pulumi CLI, its plugins, source archives.

Standard library only: it runs on a bare Debian Python before any virtual environment exists.
"""
