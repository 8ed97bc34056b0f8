# SPDX-License-Identifier: Apache-2.0
"""The option --data-root NAME=FOLDER of training, evaluation and export."""

from __future__ import annotations

import argparse
from pathlib import Path

from training.data.dataset import SegmentationDataset
from training.data.listed_folder import ListedFolder
from training.recipe import Recipe, validation_data


class DataRoots(dict[str, Path]):
    """Folders by name; a missing name ends the program with one line."""

    def __missing__(self, name: str) -> Path:
        raise SystemExit(f"no folder for {name!r}: add --data-root {name}=FOLDER")


class DataRootAction(argparse.Action):
    """Collects NAME=FOLDER into DataRoots."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        name, separator, folder = str(values).partition("=")
        if not separator:
            parser.error(
                f"{option_string} {values!r}: expected NAME=FOLDER, e.g. camvid=data/camvid"
            )
        roots = DataRoots(getattr(namespace, self.dest) or {})
        roots[name] = Path(folder)
        setattr(namespace, self.dest, roots)


def validation_pictures(
    recipe: Recipe, roots: DataRoots | None, folder: Path | None, lists: list[str]
) -> tuple[SegmentationDataset, list[str]]:
    """Returns validation pictures and the names of their lists.

    The pictures are the recipe's validation set in `roots`, or, if `roots` is None, those that the
    list files in `folder` name.

    Raises:
        SystemExit: there are no such pictures.
    """
    if roots is not None:
        data = validation_data(recipe, roots)
        if data is None:
            raise SystemExit(
                f"recipe {recipe.name!r} has no validation for --data-root: name a folder and its "
                "list files instead, see --help"
            )
        return data, [f"validation of {recipe.name}"]
    assert folder is not None, "argparse asks for one of the two"
    try:
        data = ListedFolder(folder, tuple(lists))
    except FileNotFoundError as error:
        own = "" if recipe.validation is None else "; --data-root takes the recipe's validation"
        raise SystemExit(f"{error}{own}") from None
    return data, lists
