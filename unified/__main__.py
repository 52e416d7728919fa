"""`python -m unified VERB …` is the same command as `unified VERB …`."""

from __future__ import annotations

from unified.cli import main

if __name__ == "__main__":
    main()
