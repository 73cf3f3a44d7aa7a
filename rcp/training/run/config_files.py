"""Configuration files: found by name, and refused where YAML would silently mend them."""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from jsonargparse import set_parsing_settings

from rcp.errors import UserError
from rcp.quoting import plain, quoted

CONFIGS = Path("configs")
PARTS = ("model", "data", "trainer")
"""What of a configuration may be given as one, by a file or by its fields in braces."""


def configs_first(arguments: Sequence[str]) -> list[str]:
    """The arguments, their configurations by path and ahead of all else, so that the rest wins.

    The parser lets what stands behind overwrite what stands before, and a configuration would
    overwrite an override in silence. After whole configurations come those of a part, as in
    `--data data.yaml`; among themselves they keep their order. Raises ``argparse.ArgumentError``
    for one without a name.
    """
    options = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    options.add_argument("-c", "--config", action="append", default=[])
    for part in PARTS:
        options.add_argument(f"--{part}", action="append", default=[])
    given, others = options.parse_known_args(arguments)
    parts = [f"--{part}={values}" for part in PARTS for values in getattr(given, part)]
    return [*(f"--config={config_path(name)}" for name in given.config), *parts, *others]


def config_path(name: str) -> Path:
    """The configuration ``name``: a path, or the name of one in configs/.

    Raises ``UserError`` where there is none, or one that YAML would silently mend.
    """
    for path in (Path(name), CONFIGS / name):
        if os.path.isfile(path):
            _check(path)
            return path
    known = ", ".join(sorted(path.name for path in CONFIGS.glob("*.yaml"))) or "none"
    raise UserError(
        f"There is no configuration '{name}', neither as a path nor in configs/. In configs/ there "
        f"are: {known}. Name one of these or give the path of your own."
    )


def only_our_classes() -> None:
    """Let the parser import by name what is ours or Lightning's: no configuration may run code."""
    set_parsing_settings(
        import_path_denylist=["*"], import_path_allowlist=["rcp", "pytorch_lightning"]
    )


def _check(path: Path) -> None:
    """Refuse what is no text, what is too deep, and fields given twice, of which YAML would take
    the second."""
    try:
        content = yaml.compose(path.read_text(), Loader=yaml.SafeLoader)
        repeated = next(_repeated(content), None)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"The configuration '{path}' is not text ({plain(error)}). Give a YAML file."
        ) from error
    except RecursionError as error:
        raise UserError(
            f"The configuration '{path}' is too deep, or refers to itself. Give a flatter one."
        ) from error
    except yaml.YAMLError:
        return  # the parser of the command line says where it is wrong
    if repeated is not None:
        raise UserError(
            f"The configuration '{path}' gives {quoted(repeated.value)} a second time in line "
            f"{repeated.start_mark.line + 1}. Leave one of the two."
        )


def _repeated(node: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    yield key
                seen.add(key.value)
            yield from _repeated(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _repeated(value)
