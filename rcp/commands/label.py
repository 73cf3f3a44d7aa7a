"""Make what a training's teacher cache holds, or a share of it, before the training.

Reads the configuration as train.py does, overrides such as --model.teacher_cache DIR included. As
many processes as there are GPUs, on any number of machines, may fill one folder that all of them
see: each is told its number and makes its own files, whole or not at all. One that was cut off
goes on with the same command. Trainings with the same base, data and precision then read them.

    srun %(prog)s --config rcp_llava.yaml --model.teacher_cache /shared/labels \\
        --process '$SLURM_PROCID' --processes '$SLURM_NTASKS'
"""

import argparse

from rcp.errors import UserError


def configure(parser: argparse.ArgumentParser) -> None:
    """The configuration, and which of the processes this one is."""
    parser.set_defaults(overrides=[])
    add = parser.add_argument
    add("--config", required=True, help="configuration of train.py")
    add("--process", type=int, default=0, metavar="R", help="number of this process, from 0")
    add("--processes", type=int, default=1, metavar="N", help="how many there are")


def run(options: argparse.Namespace) -> None:
    from rcp.training.run.cli import label

    if options.processes < 1 or not 0 <= options.process < options.processes:
        raise UserError(
            f"--process is {options.process} and --processes {options.processes}: give numbers of "
            "processes from 0 to one below how many there are."
        )
    arguments = ["--config", options.config, *options.overrides]
    print("\n".join(label(arguments, options.process, options.processes)))
