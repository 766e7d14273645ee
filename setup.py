"""What pyproject.toml cannot say: configs/ and docs/ travel within the package, and the README gets absolute links."""

import re
import shutil
import tomllib
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
# Folders of the checkout that a wheel holds as folders of the package, and their files.
SHIPPED = {"configs": "*.py", "docs": "*.md"}


class Build(build_py):
    """Copies the folders beside the package into it; an editable installation finds them where they are."""

    def run(self) -> None:
        """Build the package."""
        super().run()
        if self.editable_mode:
            return
        for name, pattern in SHIPPED.items():
            folder = Path(self.build_lib) / "diffbir_jax" / name
            folder.mkdir(parents=True, exist_ok=True)
            for file in (ROOT / name).glob(pattern):
                shutil.copyfile(file, folder / file.name)


def readme() -> str:
    """Return README.md as it is shown where the files beside it are missing: its links are absolute, or plain text."""
    text = (ROOT / "README.md").read_text("utf-8")
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"].get("urls", {})
    if source := urls.get("Repository"):
        text = re.sub(r"(!\[[^\]]*\])\((?!https?:|#)([^)]+)\)", rf"\1({source}/raw/main/\2)", text)
        return re.sub(r"(?<!!)(\[[^\]]*\])\((?!https?:|#)([^)]+)\)", rf"\1({source}/blob/main/\2)", text)
    text = re.sub(r"!\[[^\]]*\]\((?!https?:)[^)]+\)\n?", "", text)
    return re.sub(r"\[([^\]]*)\]\((?!https?:|#)([^)]+)\)", r"\1 (`\2`)", text)


setup(cmdclass={"build_py": Build}, long_description=readme(), long_description_content_type="text/markdown")
