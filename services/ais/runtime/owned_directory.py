"""Directories that live as long as the object that holds them."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path


class OwnedDirectory:
    """A new directory. It is removed with all that is in it once nobody holds this object any more.

    An object whose data lies in files keeps one in a field: the files then go with it, also when making it fails.
    """

    def __init__(self, prefix: str, parent: Path | None = None) -> None:
        """Its name is `prefix` and some random characters. `parent` None: the system's for temporary files."""
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        self._remove = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)

    def beside(self, prefix: str) -> OwnedDirectory:
        """A second one in the same parent directory, for what is made of this one's files."""
        return OwnedDirectory(prefix, self.path.parent)

    def remove(self) -> None:
        """Removes it now."""
        self._remove()
