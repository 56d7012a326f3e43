"""The ground floor: errors, limits, seeds, devices, files, events, results, checkpoint folders.

Import from the modules themselves (`from genmm.core.errors import GenmmError`); this package stays empty so that
the modules which need no torch can be used without it.
"""

__all__: list[str] = []
