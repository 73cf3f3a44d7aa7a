"""Check training data: every row, every image, with a summary by question type."""

import argparse
from pathlib import Path

from rcp.conversations.checks import Findings, check, repeated, summary
from rcp.conversations.stream import StreamedTable
from rcp.conversations.table import is_table
from rcp.errors import UserError

SHOWN = 20


def configure(parser: argparse.ArgumentParser) -> None:
    """The file, its images, and how thorough to be."""
    add = parser.add_argument
    add("file", type=Path,
        help="conversation file, or a folder that holds one; or a Hugging Face data set: a folder "
             "that save_to_disk wrote, a parquet or arrow file or a folder of them, or "
             "hf:NAME:SPLIT, which is read in a stream")
    add("--image-folder", type=Path, metavar="DIR",
        help="folder that image paths are relative to (default: the file's)")
    add("--decode", action=argparse.BooleanOptionalAction, default=True,
        help="also decode every image, after rows and the existence of files are known to be sound")


def run(options: argparse.Namespace) -> None:
    if is_table(str(options.file)):
        found = _check_table(str(options.file), options.decode)
    else:
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


def _check_table(source: str, decode: bool) -> Findings:
    """One pass through a Hugging Face data set, without anything being kept on disk."""
    table, found = StreamedTable(source), Findings()
    for row in table.rows():
        try:
            sample = table.load(row).sample if decode else table.read(row)
            found.samples.append(sample)
        except UserError as error:
            found.problems.append(str(error))
    found.problems += repeated(found.samples)
    print(
        f"Files: {table.files}. With data.streaming, as many processes times data.num_workers as "
        f"divide {table.files} read each file once; others read all files each."
    )
    return found
