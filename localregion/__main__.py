"""``python -m localregion``"""

from localregion.cli import run

if __name__ == "__main__":
    run()
