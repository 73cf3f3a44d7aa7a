"""Check training data: every row, every image, with a summary by question type."""

import argparse
from pathlib import Path

from rcp.conversations.checks import (
    Findings,
    Thoroughness,
    check_file,
    check_table,
    summary,
)
from rcp.conversations.collator import ConversationCollator
from rcp.conversations.leave_out import write_entries
from rcp.conversations.reader import ConversationDataset
from rcp.conversations.splits import is_table
from rcp.conversations.stream import StreamedTable
from rcp.errors import UserError
from rcp.quoting import quoted
from rcp.refusals import refuse_below_one, refuse_no_file

SHOWN = 20


def configure(parser: argparse.ArgumentParser) -> None:
    """The file, its images, and how thorough to be."""
    add = parser.add_argument
    add("file", type=Path,
        help="conversation file, or a folder that holds one; or a Hugging Face data set: a folder "
             "that save_to_disk wrote, a parquet or arrow file or a folder of them (FOLDER:SPLIT "
             "of one with several splits), or hf:NAME:SPLIT, which is read in a stream")
    add("--image-folder", type=Path, metavar="DIR",
        help="folder that image paths are relative to (default: the file's)")
    add("--turns", choices=("first", "all"), default="first",
        help="questions of each conversation to look at, as data.turns (default: %(default)s)")
    add("--decode", action=argparse.BooleanOptionalAction, default=True,
        help="also decode every image")
    add("--base", metavar="MODEL",
        help="folder or hub id of the model to train around: its processor is then run on every "
             "sample, and may refuse more")
    add("--max-length", type=int, default=1024, metavar="N",
        help="with --base: tokens above which data.max_length will leave a sample out (default: "
             "%(default)s)")
    add("--output", type=Path, metavar="JSON",
        help="write all samples that are found wanting there, for data.leave_out of a training")


def run(options: argparse.Namespace) -> None:
    refuse_below_one(options, "max_length")
    if options.output is not None:
        refuse_no_file(options.output, "--output")
    if options.base is not None and not options.decode:
        raise UserError("--base runs the processor on decoded images: leave out --no-decode.")
    thoroughness = Thoroughness(options.decode, _collator(options))
    every = options.turns == "all"
    if is_table(str(options.file)):
        table = StreamedTable(str(options.file), options.image_folder, all_turns=every)
        found = check_table(table, thoroughness)
        print(
            f"Files: {table.files}. With data.streaming, as many processes times data.num_workers "
            f"as divide {table.files} read each file once; others read all files each."
        )
    else:
        dataset = ConversationDataset(options.file, options.image_folder, all_turns=every)
        found = check_file(dataset, thoroughness)
    _tell(found)
    if options.output is not None:
        write_entries([*found.problems, *found.too_long], options.output)
        print(f"The list of them is in {options.output}: data.leave_out leaves them out.")
    if found.problems:
        raise UserError(
            f"{quoted(options.file)} has {len(found.problems)} problems beside "
            f"{len(found.samples)} sound samples. Correct or remove what is listed, or leave it "
            "out by --output and data.leave_out; data.unreadable lets training pass over a few."
        )
    print("No problem found." if options.decode else "No problem found; no image was decoded.")


def _collator(options: argparse.Namespace) -> ConversationCollator | None:
    if options.base is None:
        return None
    from rcp.base_model.loading import load_processor

    return ConversationCollator(load_processor(options.base), options.max_length)


def _tell(found: Findings) -> None:
    print("\n".join(summary(found.samples)))
    if found.repeated:
        print(
            f"Note: The id {quoted(found.repeated[0])} occurs more than once, as do "
            f"{len(found.repeated) - 1} others. The numbers of their rows tell their samples apart."
        )
    if found.too_long:
        print(
            f"Note: {len(found.too_long)} samples are too long, and left out in training. "
            f"{found.too_long[0].why}"
        )
    print("\n".join(entry.why for entry in found.problems[:SHOWN]), end="")
    if found.problems:
        print()
    if len(found.problems) > SHOWN:
        print(f"... and {len(found.problems) - SHOWN} more; --output FILE writes all of them")
