"""Check a conversation file: every row, every image, with a summary by question type."""

import argparse
from pathlib import Path

from rcp.conversations.checks import check, summary
from rcp.errors import UserError

SHOWN = 20


def configure(parser: argparse.ArgumentParser) -> None:
    """The file, its images, and how thorough to be."""
    add = parser.add_argument
    add("file", type=Path, help="conversation file, or a folder that holds one")
    add("--image-folder", type=Path, metavar="DIR",
        help="folder that image paths are relative to (default: the file's)")
    add("--decode", action=argparse.BooleanOptionalAction, default=True,
        help="also decode every image, after rows and the existence of files are known to be sound")


def run(options: argparse.Namespace) -> None:
    found = check(options.file, options.image_folder, decode=False)
    if options.decode and not found.problems:
        found = check(options.file, options.image_folder, decode=True)
    print("\n".join(summary(found.samples)))
    if found.problems:
        print("\n".join(found.problems[:SHOWN]))
        if len(found.problems) > SHOWN:
            print(f"... and {len(found.problems) - SHOWN} more")
        raise UserError(
            f"'{options.file}' has {len(found.problems)} problems beside {len(found.samples)} "
            "sound samples. Correct or remove what is listed; data.unreadable lets training pass "
            "over a few images that cannot be read."
        )
    print("No problem found." if options.decode else "No problem found; no image was decoded.")
