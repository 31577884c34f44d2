"""python -m export CHECKPOINT BUNDLE · python -m export verify BUNDLE · python -m export measure BUNDLE --data PATH."""

from export.cli import main

if __name__ == "__main__":
    main()
