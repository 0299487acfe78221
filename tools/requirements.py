"""Print the requirements to build fastlstm, to run it, and of the extras named as arguments, one a line."""

import sys
import tomllib
from pathlib import Path


def main(extras: list[str]) -> None:
    pyproject = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    project = pyproject["project"]
    requirements = pyproject["build-system"]["requires"] + project["dependencies"]
    for extra in extras:
        requirements += project["optional-dependencies"][extra]
    print("\n".join(dict.fromkeys(requirements)))


if __name__ == "__main__":
    main(sys.argv[1:])
